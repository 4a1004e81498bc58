"""What is known of each stage before it runs: the facts, put together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmkd.advice import is_of_matrices, smaller
from llmkd.check.adapters import look_at_adapter
from llmkd.check.capture import store_problems
from llmkd.check.classifiers import KNOWN
from llmkd.check.config_fields import unknown_fields
from llmkd.check.facts import Fact, NotKnownError, StageFacts, known, shown_bytes, value_of
from llmkd.check.fitting import Setup, Training, settings_that_fit
from llmkd.check.host import look_at_host
from llmkd.check.kinds import kind_problems
from llmkd.check.labels import labelled_facts
from llmkd.check.lengths import BadSourcesError, data_facts
from llmkd.check.machine import Machine, Memory
from llmkd.check.memory import train_memory, verdict
from llmkd.check.models import Model, Models
from llmkd.check.row_facts import DataFacts
from llmkd.check.seq2seq import KNOWN_SEQ2SEQ, num_positions
from llmkd.check.spread import ALONE, Spread
from llmkd.check.steps import longest_sequence, step_facts, train_disk
from llmkd.check.teachers import Beside
from llmkd.check.vocabulary import Tokenizer
from llmkd.errors import DataError
from llmkd.models.agreement import (
    different_tokens,
    too_few_embeddings,
    too_long_for,
)
from llmkd.recipe.data import Classification
from llmkd.recipe.models import ScratchStudent
from llmkd.recipe.places import Problem
from llmkd.recipe.schema import Recipe, Stage, TrainStage
from llmkd.recipe.training_arguments import effective
from llmkd.recipe.yaml_places import Key

UNKNOWN_DATA = DataFacts(*[Fact(None, "not known", "the data cannot be used as it is")] * 4)


@dataclass
class Checker:
    """Goes through a recipe's stages in the order written.

    Args:
        recipe: A recipe that loads.
        machine: What the stages would run on.
        spread: Over which processes trainings would be spread.
    """

    recipe: Recipe
    machine: Machine
    spread: Spread = ALONE
    models: Models = field(init=False)
    generated: dict[str, DataFacts] = field(default_factory=dict)

    def __post_init__(self):
        self.models = Models(self.recipe)

    def memory(self, *, use_cpu: bool = False) -> Memory | None:
        """The pool that a stage's models go to."""
        if self.machine.accelerators and not use_cpu:
            return max(self.machine.accelerators, key=lambda memory: memory.free)
        return self.machine.system

    def train(self, name: str, stage: TrainStage) -> StageFacts:
        """Parameters, data, steps, memory and disk of a train stage."""
        found = StageFacts(stage.kind)
        student = self.models.student_of(name)
        teacher = stage.local_teacher and self.models.of(stage.local_teacher)
        found.problems += _config_problems(name, stage) + kind_problems(
            name, stage, student, teacher
        )
        found.problems += store_problems(("stages", name), stage)
        found.facts["student parameters"] = student.parameters
        if student.trainable != student.parameters:
            found.facts["trainable parameters"] = student.trainable
        if teacher is not None:
            found.facts["teacher parameters"] = teacher.parameters
        look_at_adapter(found, ("stages", name), stage.local_teacher)
        found.facts["vocabulary"] = vocabulary_fact(found, student, teacher, ("stages", name))
        data = self._data(found, name, stage, student.tokenizer)
        found.facts |= {
            "rows": data.rows, "tokens per row": data.tokens_per_row,
            "longest row": data.longest, "rows cut": data.truncated,
        }  # fmt: skip
        if data.dropped.value:
            found.facts["rows dropped"] = data.dropped
        arguments = effective(stage.trainer)
        found.facts |= step_facts(stage, data, arguments, self.spread.num_processes)
        self._train_memory(found, stage, student, teacher, data, arguments)
        found.facts["disk"] = known(lambda: train_disk(student, data, found.facts, arguments))
        _position_problems(found, student, teacher, stage, data, name)
        _cut_warning(found, data, name)
        return found

    def judge(
        self,
        found: StageFacts,
        memory: Memory | None,
        stage: Stage,
        instead: Callable[[Memory], list[str]] | None = None,
    ) -> None:
        """Sets the verdict on the stage's memory, and warns where it does not fit.

        Args:
            found: Of the stage; gets the verdict.
            memory: What there is.
            stage: What takes it.
            instead: What to write instead; the keys that make a stage smaller where it has nothing.
        """
        needed = found.facts["memory"]
        found.verdict = verdict(needed, memory)
        if found.verdict in ("tight", "does not fit") and memory is not None:
            share = (
                f"{shown_bytes(needed.value)} of {shown_bytes(memory.free)} free in {memory.name}"
            )
            keys = ", or ".join((instead and instead(memory)) or smaller(stage))
            found.warnings.append(f"memory {found.verdict} ({share}, estimate); write {keys}")

    def has_accelerator(self, arguments: Mapping[str, Any]) -> bool:
        """Whether a training with these arguments runs on one."""
        return bool(self.machine.accelerators) and not arguments["use_cpu"]

    def judge_training(
        self,
        found: StageFacts,
        stage: Training,
        setup: Setup,
        estimate: Callable[[Setup], Fact],
        teachers: Sequence[Beside],
    ) -> None:
        """A training's memory per process, the verdict, and with `--launch` what would fit.

        Args:
            found: Of the stage; gets facts, verdict and warnings.
            stage: What is trained.
            setup: What its memory follows from.
            estimate: The memory of a setup, per process.
            teachers: All of them, which loading takes memory for.
        """
        found.facts["memory"] = known(lambda: estimate(setup))
        memory = self.memory(use_cpu=bool(setup.arguments["use_cpu"]))
        if self.spread.engine is None:
            self.judge(found, memory, stage)
            return
        look_at_host(found, setup.student, teachers, self.spread, self.machine)
        optimizer = setup.arguments["optim"] or ""
        if self.spread.engine != "ddp" and is_of_matrices(optimizer):
            found.warnings.append(
                f"trainer.optim: {optimizer} is refused beside --launch {self.spread.engine}, which keeps "
                "weights in flat parts; write adamw_torch, or --launch ddp"
            )
        if memory is not None and not self.has_accelerator(setup.arguments):
            # All of this machine's processes share it.
            memory = replace(
                memory, name=f"{memory.name}, shared", free=self.spread.part(memory.free)
            )
        self.judge(
            found, memory, stage, lambda pool: settings_that_fit(stage, setup, estimate, pool)
        )

    def _data(
        self, found: StageFacts, name: str, stage: TrainStage, tokenizer: Tokenizer | str
    ) -> DataFacts:
        try:
            if isinstance(stage.data, Classification):
                return self._labelled(found, stage, stage.data, tokenizer)
            return data_facts(stage.data, tokenizer, self.generated_by)
        except DataError as error:
            errors = [error]
        except BadSourcesError as error:
            errors = error.errors
        except NotKnownError as error:
            return DataFacts(*[Fact(None, "not known", str(error))] * 4)
        key = ("stages", name, "data")
        found.problems += [Problem((*key, *error.key), error.message) for error in errors]
        return UNKNOWN_DATA

    def _labelled(
        self,
        found: StageFacts,
        stage: TrainStage,
        source: Classification,
        tokenizer: Tokenizer | str,
    ) -> DataFacts:
        labels = known(lambda: Fact(len(self.models.labels_of(stage)), "exact", "of all models"))
        found.facts["labels"] = labels
        return labelled_facts(source, tokenizer)

    def generated_by(self, stage_name: str) -> DataFacts:
        """What is known of a stage's data set."""
        return self.generated.get(stage_name, UNKNOWN_DATA)

    def _train_memory(
        self,
        found: StageFacts,
        stage: TrainStage,
        student: Model,
        teacher: Model | None,
        data: DataFacts,
        arguments: Mapping[str, Any],
    ) -> None:
        def length() -> int:
            return value_of(longest_sequence(stage, data))

        has_accelerator = self.has_accelerator(arguments)
        source = stage.local_teacher
        beside = None if teacher is None or source is None else Beside(teacher, source)

        def estimate(setup: Setup) -> Fact:
            size = setup.arguments["per_device_train_batch_size"]
            return train_memory(
                setup.student, setup.teacher, Fact(size * length(), "estimate"), setup.arguments,
                has_accelerator=has_accelerator, spread=setup.spread,
            )  # fmt: skip

        setup = Setup(student, beside, arguments, self.spread)
        self.judge_training(found, stage, setup, estimate, [beside] if beside else [])


def _config_problems(name: str, stage: TrainStage) -> list[Problem]:
    """Fields of a student's configuration that its architecture does not have."""
    config = stage.student.config if isinstance(stage.student, ScratchStudent) else {}
    model_type = config.get("model_type")
    if model_type not in (*KNOWN, *KNOWN_SEQ2SEQ):
        return []
    key = ("stages", name, "student", "config")
    return [
        Problem((*key, field), f"{model_type} has no such field; {instead}")
        for field, instead in unknown_fields(model_type, config).items()
    ]


def vocabulary_fact(found: StageFacts, student: Model, teacher: Model | None, key: Key) -> Fact:
    """The tokens that all share; disagreement goes to the problems."""
    tokenizer = student.tokenizer
    if isinstance(tokenizer, str):
        return Fact(None, "not known", tokenizer)
    notes = [f"tokens of {tokenizer.name}"]
    if teacher is not None and isinstance(teacher.tokenizer, str):
        notes.append(f"whether the teacher's are the same is not known: {teacher.tokenizer}")
    elif teacher is not None:
        assert isinstance(teacher.tokenizer, Tokenizer)
        problem = different_tokens(tokenizer.vocabulary, teacher.tokenizer.vocabulary)
        if problem:
            found.problems.append(Problem((*key, "teacher"), problem))
        else:
            notes.append("the teacher's are the same")
    for role, model in (("student", student), ("teacher", teacher)):
        if model is not None and model.num_embeddings is not None:
            problem = too_few_embeddings(model.num_embeddings, tokenizer.size, role)
            if problem:
                found.problems.append(Problem((*key, role), problem))
            elif model.num_embeddings > tokenizer.size:
                notes.append(
                    f"the {role}'s head is padded to {model.num_embeddings}, which is fine"
                )
    return Fact(tokenizer.size, "exact", "; ".join(notes))


def _position_problems(
    found: StageFacts,
    student: Model,
    teacher: Model | None,
    stage: TrainStage,
    data: DataFacts,
    name: str,
) -> None:
    for role, model in (("student", student), ("teacher", teacher)):
        if model is None:
            continue
        is_of_sides = model.is_seq2seq or data.longest_side.value
        longest = data.longest_side if is_of_sides else data.longest
        limit = num_positions_of(model)
        if longest.value is None or limit is None or longest.exactness == "at most":
            continue
        if longest.value > limit:
            key, message = too_long_for(stage, role, int(longest.value), limit)
            found.problems.append(Problem(("stages", name, *key), message))


def num_positions_of(model: Model) -> int | None:
    """Tokens that a model has learned positions for; None where there is no such limit."""
    if isinstance(model.shape, str):
        return num_positions(model.config) if model.is_seq2seq else None
    return model.shape.num_positions


def _cut_warning(found: StageFacts, data: DataFacts, name: str) -> None:
    if data.truncated.value:
        found.warnings.append(
            f"{100 * data.truncated.value:.3g} % of the rows looked at are longer than "
            f"max_length and would be cut; change stages.{name}.data.max_length"
        )
    if data.dropped.value:
        found.warnings.append(
            f"{100 * data.dropped.value:.3g} % of the rows looked at have no token to train on "
            f"within max_length and would be left out; change stages.{name}.data.max_length"
        )
