"""Checks across a recipe's fields: what no field can know by itself."""

from collections.abc import Iterable, Iterator, Mapping

from llmkd.recipe.adapter_checks import adapter_problems
from llmkd.recipe.base import RecipePart, referenced_stage
from llmkd.recipe.capture_checks import captured_teacher_problems, engine_problems
from llmkd.recipe.classification_checks import suite_problems
from llmkd.recipe.curation_checks import curation_problems
from llmkd.recipe.data import Classification, Mixture, SequenceLengths, Task, is_regression
from llmkd.recipe.evaluation import Suite
from llmkd.recipe.kdrl_checks import kdrl_problems
from llmkd.recipe.local_paths import looks_like_path, missing_path
from llmkd.recipe.losses import (
    BatchTerm,
    CosineSchedule,
    KeptFraction,
    LinearSchedule,
    Loss,
    LossTerm,
    TeacherTerm,
)
from llmkd.recipe.models import ScratchStudent
from llmkd.recipe.places import Problem, name_problems, nearest
from llmkd.recipe.prompt_checks import prompt_problems
from llmkd.recipe.pruning_checks import pruning_problems
from llmkd.recipe.rationale_checks import rationale_problems
from llmkd.recipe.reasoning_checks import reasoning_problems
from llmkd.recipe.references import REFERENCE_FIELDS
from llmkd.recipe.schema import (
    EvaluateStage,
    KDRLStage,
    MergeStage,
    PruneStage,
    Stage,
    TeacherDataStage,
    TrainStage,
)
from llmkd.recipe.shipped import beside_recipes, shipped_prompts
from llmkd.recipe.teacher_checks import teacher_problems
from llmkd.recipe.yaml_places import Key

MODEL, TOKENIZER, DATA = "a model", "a tokenizer", "a data set"
STORE, CURATED = "a teacher store", "a curated data set"
PRODUCTS: dict[str, tuple[str, ...]] = {
    "train": (MODEL, TOKENIZER),
    "kdrl": (MODEL, TOKENIZER),
    "task_rows": (DATA, TOKENIZER),
    "merge": (MODEL, TOKENIZER),
    "generate": (DATA, STORE),
    "score": (STORE,),
    "curate": (DATA, CURATED),
    "prune": (MODEL, TOKENIZER),
    "evaluate": ("results",),
}
"""What each kind of stage makes."""
MODEL_KINDS = frozenset(kind for kind, made in PRODUCTS.items() if MODEL in made)
"""The kinds of stages that make a model folder."""
WANTED = {
    "dataset_name": DATA,
    "fewshot_name": DATA,
    "tokenizer_name_or_path": TOKENIZER,
    "path": STORE,
    "stage": CURATED,
}
"""What a field that names a stage wants of it; others want a model."""


def stage_problems(stages: Mapping[str, Stage], kinds: Mapping[str, str]) -> list[Problem]:
    """What is wrong across the fields of stages.

    Args:
        stages: Those to check.
        kinds: The kind of every stage of the recipe, in the order written.
    """
    problems: list[Problem] = []
    for name, stage in stages.items():
        key = ("stages", name)
        problems += reference_problems(stage, key, name, kinds)
        problems += part_problems(stage, key)
        problems += adapter_problems(stage, key)
        problems += teacher_problems(stage, key)
        problems += prompt_problems(stage, key, stages)
        if isinstance(stage, TrainStage):
            problems += _train_problems(stage, key)
            problems += captured_teacher_problems(stage, key, stages)
        if isinstance(stage, KDRLStage):
            problems += kdrl_problems(stage, key, stages)
        if isinstance(stage, TeacherDataStage):
            problems += engine_problems(stage, key)
        problems += curation_problems(stage, key, stages)
        if isinstance(stage, MergeStage):
            problems += [Problem((*key, *place), text) for place, text in stage.problems()]
        if isinstance(stage, PruneStage):
            problems += pruning_problems(stage, key)
        if isinstance(stage, EvaluateStage):
            problems += _repeated(stage.models, (*key, "models"), "model")
    return problems


def results_problems(suites: Mapping[str, tuple[list[str], Suite]]) -> Iterator[Problem]:
    """Tasks that two evaluate stages measure of one model, whose results are one to a reader.

    Args:
        suites: Stage name to its models and its suite.
    """
    seen: dict[tuple[str, str, str], str] = {}
    for name, (models, suite) in suites.items():
        shared = [
            (seen[found], task.name, model)
            for task in suite.tasks
            for model in models
            if (found := (model, suite.name, task.name)) in seen
        ]
        if shared:
            other, task_name, model = shared[0]
            message = (
                f"stage `{other}` measures task {task_name} of a suite {suite.name} for {model} "
                "too, and the results could not be told apart; give the suite another name, or "
                "leave one out"
            )
            yield Problem(("stages", name, "suite"), message)
        for model in models:
            for task in suite.tasks:
                seen.setdefault((model, suite.name, task.name), name)


def part_problems(part: RecipePart, key: Key = ()) -> list[Problem]:
    """Paths in a part of a recipe that lead nowhere, and tasks of one name."""
    found = [
        (place, _missing_prompt(value) if field == "prompt_file" else missing_path(value))
        for place, field, value in _references(part, key)
        if referenced_stage(value) is None
        and (looks_like_path(value) or field in ("deepspeed", "path", "prompt_file"))
    ]
    problems = [Problem(place, message) for place, message in found if message]
    suite = part.suite if isinstance(part, EvaluateStage) else part
    if isinstance(suite, Suite):
        place = (*key, "suite", "tasks") if suite is not part else (*key, "tasks")
        problems += _repeated([task.name for task in suite.tasks], place, "task")
        problems += suite_problems(suite, place)
        problems += reasoning_problems(suite, place)
    return problems


def _missing_prompt(value: str) -> str | None:
    message = missing_path(beside_recipes(value))
    return message and f"{message}; llmkd's own are {', '.join(shipped_prompts())}"


def _repeated(names: Iterable[str], key: Key, what: str) -> Iterator[Problem]:
    """Results are told apart by these names."""
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in seen:
            message = f"{name} is {what} {seen[name]} too; leave one out, or name another"
            yield Problem((*key, index), message)
        seen.setdefault(name, index)


def reference_problems(
    part: RecipePart, key: Key, stage: str, kinds: Mapping[str, str]
) -> list[Problem]:
    """The `stage:NAME` in a part of `stage` that name no earlier stage with the right product."""
    problems: list[Problem] = []
    for place, field, value in _references(part, key):
        target = referenced_stage(value)
        wanted = WANTED.get(field, MODEL)
        message = None if target is None else _wrong_reference(target, wanted, stage, kinds)
        if message:
            problems.append(Problem(place, message))
    return problems


def _references(value: object, key: Key, field: str = "") -> Iterator[tuple[Key, str, str]]:
    """Every text that names something outside: where it stands, its field's name, the text."""
    if isinstance(value, RecipePart):
        for name in type(value).model_fields:
            yield from _references(getattr(value, name), (*key, name), name)
    elif isinstance(value, dict):
        for name, item in value.items():
            if field == "trainer" or isinstance(item, RecipePart):
                yield from _references(item, (*key, name), name)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _references(item, (*key, index), field)
    elif isinstance(value, str) and field in REFERENCE_FIELDS:
        yield key, field, value


def _wrong_reference(target: str, wanted: str, stage: str, kinds: Mapping[str, str]) -> str | None:
    names = list(kinds)
    earlier = names[: names.index(stage)]
    fitting = [name for name in earlier if wanted in PRODUCTS.get(kinds[name], ())]
    if fitting:
        instead = f"write one of {', '.join(f'stage:{name}' for name in fitting)}"
    else:
        instead = f"put a stage before this one that makes {wanted}"
    if target == stage:
        return f"stage:{target} is this stage itself; {instead}"
    if target not in kinds:
        near = nearest(target, fitting)
        return (
            f"no stage is called `{target}`; {f'did you mean stage:{near}?' if near else instead}"
        )
    if target not in earlier:
        return f"stage `{target}` comes later, and stages run as written; move it up, or {instead}"
    products = PRODUCTS.get(kinds[target])
    if products is not None and wanted not in products:
        return f"stage `{target}` makes {products[0]}, and {wanted} is needed here; {instead}"
    return None


def _train_problems(stage: TrainStage, key: Key) -> Iterator[Problem]:
    yield from _teacher_problems(stage, key)
    yield from name_problems(stage.losses, (*key, "losses"))
    yield from _pairing_problems(stage.losses, key)
    yield from rationale_problems(stage, key)
    if all(_is_zero(term) for term in stage.losses):
        message = "every term has weight 0, so nothing would be learned; give one a weight"
        yield Problem((*key, "losses"), message)
    if isinstance(stage.student, ScratchStudent):
        yield from _scratch_problems(stage, stage.student, key)
    if isinstance(stage.data, SequenceLengths) and stage.data.streaming:
        yield from _streaming_problems(stage, key)
    if stage.teacher is not None and isinstance(stage.data, Classification):
        yield from _classifier_teacher_problems(stage, key)


def _streaming_problems(stage: TrainStage, key: Key) -> Iterator[Problem]:
    max_steps = stage.trainer.get("max_steps")
    if not (isinstance(max_steps, int) and max_steps > 0):
        yield Problem(
            (*key, "data", "streaming"),
            "a stream has no known length; write trainer.max_steps, or streaming: false",
        )
    if isinstance(stage.data, Mixture) and stage.data.num_examples is not None:
        yield Problem(
            (*key, "data", "num_examples"),
            "a stream draws from its sources by weight without end; leave it out, and say how "
            "long by trainer.max_steps",
        )
    num_workers = stage.trainer.get("dataloader_num_workers")
    if isinstance(num_workers, int) and num_workers > 0:
        yield Problem(
            (*key, "trainer", "dataloader_num_workers"),
            "each worker would read the whole stream; write 0, or data.streaming: false",
        )
    if stage.trainer.get("train_sampling_strategy", "random") != "random":
        yield Problem(
            (*key, "trainer", "train_sampling_strategy"),
            "a stream is shuffled as it comes; leave it out, or write data.streaming: false",
        )


def _teacher_problems(stage: TrainStage, key: Key) -> Iterator[Problem]:
    is_number = is_regression(stage.data)
    needing = [i for i, term in enumerate(stage.losses) if isinstance(term, TeacherTerm)]
    if stage.teacher is None:
        for index in needing:
            kind = stage.losses[index].kind
            yield Problem(
                (*key, "losses", index),
                f"{kind} compares the student with a teacher, and the stage has none; write "
                "`teacher: {model_name_or_path: ...}`, or kind: "
                + ("label_mse" if is_number else "cross_entropy"),
            )
    elif not needing:
        yield Problem(
            (*key, "teacher"),
            "no term of `losses` uses the teacher; add a divergence to `losses`, such as {kind: "
            f"{'logit_mse' if is_number else 'forward_kl'}}}, or leave out `teacher`",
        )


def _classifier_teacher_problems(stage: TrainStage, key: Key) -> Iterator[Problem]:
    if stage.local_teacher is None:
        yield Problem(
            (*key, "teacher", "kind"),
            "a classifier's teacher is a model beside it; write `teacher: {model_name_or_path: ...}`",
        )


def _pairing_problems(losses: Iterable[Loss], key: Key) -> Iterator[Problem]:
    if any(not isinstance(term, BatchTerm) and not _is_zero(term) for term in losses):
        return
    for index, term in enumerate(losses):
        if isinstance(term, BatchTerm):
            yield Problem(
                (*key, "losses", index),
                f"{term.kind} is blind to which example has which distribution: it is 0 where the "
                "student's are the teacher's in another order; put a term beside it that is not, "
                "such as {kind: forward_kl} or {kind: cross_entropy}, with a weight above 0",
            )


def _is_zero(term: LossTerm) -> bool:
    match term.weight:
        case LinearSchedule(start=first, end=last) | CosineSchedule(start=first, end=last):
            return first == last == 0
        case KeptFraction(at_none=first, at_all=last):
            return first == last == 0
        case weight:
            return weight == 0


def _scratch_problems(stage: TrainStage, student: ScratchStudent, key: Key) -> Iterator[Problem]:
    model_type = student.config.get("model_type")
    if not isinstance(model_type, str):
        near = nearest("model_type", [name for name in student.config if name != "model_type"])
        was = "missing" if "model_type" not in student.config else "not text"
        instead = f"write it instead of `{near}`" if near else "write the architecture"
        place = (*key, "student", "config", "model_type")
        yield Problem(place, f"{was}; {instead}, e.g. model_type: llama")
    is_without = stage.teacher is None and student.tokenizer_name_or_path is None
    if not isinstance(stage.data, Task) and is_without:
        yield Problem(
            (*key, "student"),
            "a student from scratch takes its tokenizer from the teacher or the task, and there is "
            "neither; write `tokenizer_name_or_path` in `student`, or a `teacher`",
        )
