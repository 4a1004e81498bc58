"""The recipe: a frozen tree that says everything a run needs, and holds no live objects."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, Tag

from llmkd.recipe.base import RecipePart, kind_or
from llmkd.recipe.curation import CurateStage
from llmkd.recipe.data import AdditionTask, DatasetSource, DataSource, Prompts
from llmkd.recipe.evaluation import Suite
from llmkd.recipe.kdrl import KDRLStage
from llmkd.recipe.losses import Loss
from llmkd.recipe.merging import MergeStage
from llmkd.recipe.models import InProcessTeacher, PretrainedModel, StudentSource, Teacher
from llmkd.recipe.procedural import TaskRowsStage
from llmkd.recipe.pruning import PruneStage
from llmkd.recipe.teacher_data import Capture, Engine, Generation, TopKCapture


class TrainStage(RecipePart):
    """Trains a student on data, with a teacher or without. Product: a model folder."""

    kind: Literal["train"]
    student: StudentSource
    """What is trained: existing weights, or a shape from scratch."""
    teacher: Teacher | None = None
    """What divergences compare the student with; none for cross-entropy alone."""
    data: DataSource
    """What both read."""
    losses: list[Loss] = Field(min_length=1)
    """The terms of the objective; the loss is their weighted sum."""
    trainer: dict[str, Any] = Field(default_factory=dict)
    """`transformers.TrainingArguments` names, as they are."""
    term_gradient_steps: int | None = Field(default=None, gt=0)
    """Every so many steps, also log the gradient norm of each term by itself, `grad_norm/TERM`, at
    the price of one more pass over the batch per term; null never does."""
    on_nonfinite_loss: Literal["stop", "skip"] = "stop"
    """What becomes of a step whose loss or gradient is NaN or infinite: `stop` ends the training
    before it, and says where; `skip` leaves it out, and ends the training at the tenth in a row."""
    resume: str = "auto"
    """`auto` continues from the newest whole checkpoint, `never` starts over, a path continues
    from that checkpoint."""

    @property
    def local_teacher(self) -> InProcessTeacher | None:
        """The teacher, where it is a model beside the student."""
        return self.teacher if isinstance(self.teacher, InProcessTeacher) else None


class TeacherDataStage(RecipePart):
    """What stages have in common that keep what a teacher says. Product: a teacher store."""

    teacher: PretrainedModel
    """Who is asked."""
    engine: Engine | None = None
    """What runs the teacher; null takes vLLM where it is installed and knows the model, else
    transformers."""
    shard_size: int = Field(default=512, gt=0)
    """Rows of the data that are done and written at once: all that an interruption can cost."""


class GenerateStage(TeacherDataStage):
    """A teacher answers prompts. Product: a store, and a data set.

    The data set has rows of `prompt` and `completion`, or of `messages` and `completion` where the
    teacher was asked in its chat template. `number` is the prompt's own, from 0; its samples share it.
    """

    kind: Literal["generate"]
    data: Prompts
    """What is answered."""
    generation: Generation = Generation()
    """How it writes."""
    capture: Capture | None = None
    """What is kept of its distributions while it writes; null keeps the text alone."""


class ScoreStage(TeacherDataStage):
    """A teacher reads texts, and what it predicts is kept. Product: a store."""

    kind: Literal["score"]
    data: Annotated[
        Annotated[AdditionTask, Tag("task")] | Annotated[DatasetSource, Tag("dataset")],
        kind_or("dataset"),
    ]
    """What is read; as in a train stage, whose data it is to serve."""
    capture: Capture = TopKCapture()
    """What is kept of its distributions at every token that would be trained on."""


class EvaluateStage(RecipePart):
    """Measures models side by side. Product: results."""

    kind: Literal["evaluate"]
    models: list[str] = Field(min_length=1)
    """Model folders, hub names, or `stage:NAME`; the table keeps their order."""
    trust_remote_code: bool = False
    """Of `models`: run the Python files that come with them, where transformers lacks their
    architecture; read them first. Runs with `--allow-code` only."""
    use_safetensors: bool = True
    """Of `models`: `false` also takes weights that are pickled, where there are no others."""
    suite: str | Suite
    """A shipped suite's name, the path of a suite's YAML file, or a suite written out."""
    teacher: PretrainedModel | None = None
    """Whom the models are compared with in tasks that ask for a teacher."""
    engine: Engine | None = None
    """What writes completions; null takes transformers."""
    batch_size: Annotated[int, Field(gt=0)] | Literal["auto"] = 128
    """Most examples scored or generated together; `auto` halves it, from 128, whenever memory runs
    out."""

    @property
    def sources(self) -> list[PretrainedModel]:
        """The models that are measured, in the type of their own weights."""
        return [
            PretrainedModel(
                model_name_or_path=name,
                dtype="auto",
                trust_remote_code=self.trust_remote_code,
                use_safetensors=self.use_safetensors,
            )
            for name in self.models
        ]


AnyStage = (
    TrainStage
    | KDRLStage
    | TaskRowsStage
    | GenerateStage
    | ScoreStage
    | CurateStage
    | PruneStage
    | MergeStage
    | EvaluateStage
)
Stage = Annotated[AnyStage, Field(discriminator="kind")]
STAGE_MODELS: tuple[type[RecipePart], ...] = get_args(AnyStage)
"""Every kind of stage."""


class Recipe(RecipePart):
    """A whole run: named stages, in the order written."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the run; its folder is `runs/NAME` unless `output_dir` says otherwise."""
    description: str = ""
    """One line on what the recipe shows."""
    seed: int = Field(default=0, ge=0)
    """One seed per run: initial weights, data order, sampling."""
    output_dir: str | None = None
    """The run folder; default `runs/NAME`."""
    stages: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")], Stage] = Field(
        min_length=1
    )
    """Stage name to stage. A stage names an earlier one's product as `stage:NAME`."""
