"""Which settings would make a training fit, where it does not: each tried by the same formulas."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from llmkd.advice import FRUGAL_OPTIMIZERS, is_of_matrices
from llmkd.check.architectures import Shape, num_lora_parameters
from llmkd.check.facts import Fact, NotKnownError, known
from llmkd.check.machine import Memory
from llmkd.check.memory import CHECKPOINTING, verdict
from llmkd.check.models import Model
from llmkd.check.spread import Spread
from llmkd.check.teachers import Beside
from llmkd.launch_files import ENGINES
from llmkd.recipe.kdrl import KDRLStage
from llmkd.recipe.models import LoraConfig, PretrainedStudent
from llmkd.recipe.rollout_teachers import RoutedTeacher
from llmkd.recipe.schema import TrainStage

Training = TrainStage | KDRLStage
IN_PARTS = ("zero3", "fsdp2")
BATCH = "batch"
ENGINE = "engine"


@dataclass(frozen=True)
class Setup:
    """What the memory of a training follows from."""

    student: Model
    teacher: Beside | None
    arguments: Mapping[str, Any]
    spread: Spread


Estimate = Callable[[Setup], Fact]


@dataclass(frozen=True)
class Change:
    """Another setting.

    Args:
        text: What to write.
        kind: Of changes of one kind only one can be made.
        make: The setup with it.
    """

    text: str
    kind: str
    make: Callable[[Setup], Setup]


def settings_that_fit(
    stage: Training, setup: Setup, estimate: Estimate, memory: Memory
) -> list[str]:
    """Changes that fit by themselves, of batches the largest; else what fits together, as one.

    Args:
        stage: What is trained.
        setup: What does not fit.
        estimate: The memory of a setup, per process.
        memory: What one process has.
    """
    changes = list(_changes(stage, setup))
    alone = [each for each in changes if _fits(each.make(setup), estimate, memory)]
    if alone:
        batches = [each for each in alone if each.kind == BATCH][:1]
        return [each.text for each in alone if each.kind != BATCH or each in batches]
    return _together(changes, setup, estimate, memory)


def _together(changes: list[Change], setup: Setup, estimate: Estimate, memory: Memory) -> list[str]:
    """One change of each kind until all of it fits: the first that does, else what takes least."""
    texts: list[str] = []
    for kind in dict.fromkeys(each.kind for each in changes):
        tried = [(each.make(setup), each.text) for each in changes if each.kind == kind]
        for made, text in tried:
            if _fits(made, estimate, memory):
                return [" with ".join([*texts, text])]
        setup, text = min(tried, key=lambda made: _size(made[0], estimate))
        texts.append(text)
    return []


def _fits(setup: Setup, estimate: Estimate, memory: Memory) -> bool:
    return verdict(known(lambda: estimate(setup)), memory) == "fits"


def _size(setup: Setup, estimate: Estimate) -> float:
    size = known(lambda: estimate(setup)).value
    return float("inf") if size is None else size


def _changes(stage: Training, setup: Setup) -> Iterator[Change]:
    yield from _engines(stage, setup)
    yield from _batches(setup)
    if not any(map(setup.arguments.get, CHECKPOINTING)):
        yield _argument("gradient_checkpointing", True)
    if not setup.arguments["bf16"] and not setup.arguments["fp16"]:
        yield _argument("bf16", True)
    yield from _teachers(stage, setup)
    yield from _lora(stage, setup)
    is_whole = setup.spread.engine in (None, "ddp")
    if is_whole and not any(part in _optimizer(setup) for part in FRUGAL_OPTIMIZERS):
        # Not beside another engine.
        yield replace(_argument("optim", "adafactor"), kind=ENGINE)


def _engines(stage: Training, setup: Setup) -> Iterator[Change]:
    for engine in ENGINES:
        is_whole = engine == "ddp" or not is_of_matrices(_optimizer(setup))
        if (
            engine != setup.spread.engine
            and not _is_refused(engine, stage, setup.student)
            and is_whole
        ):
            yield Change(f"--launch {engine}", ENGINE, partial(_by, engine))


def _optimizer(setup: Setup) -> str:
    return setup.arguments["optim"] or "adamw"


def _is_refused(engine: str, stage: Training, student: Model) -> bool:
    """Whether docs/scaling.md says that the engine does not go together with the stage."""
    if engine.startswith("zero") and getattr(stage, "term_gradient_steps", None):
        return True
    has_lora = getattr(stage.student, "lora", None) is not None
    whole = isinstance(stage, KDRLStage) and (
        getattr(stage.objective, "estimator", None) == "full_vocabulary"
    )
    return engine in IN_PARTS and (whole or (has_lora and bool(student.is_classifier)))


def _batches(setup: Setup) -> Iterator[Change]:
    size = setup.arguments["per_device_train_batch_size"]
    steps = setup.arguments["gradient_accumulation_steps"]
    while size > 1:
        size, steps = size // 2, 2 * steps
        text = (
            f"trainer.per_device_train_batch_size: {size} and gradient_accumulation_steps: {steps}"
        )
        changed = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        yield Change(text, BATCH, partial(_with, changed))


def _teachers(stage: Training, setup: Setup) -> Iterator[Change]:
    teacher = setup.teacher
    # Of several, each has keys of its own.
    if teacher is None or isinstance(stage.teacher, RoutedTeacher):
        return
    if teacher.model.bytes_per_parameter > 2:
        narrow = replace(teacher, model=replace(teacher.model, bytes_per_parameter=2))
        yield _teacher("teacher.dtype: bfloat16", narrow)
    for key, value in _places(stage, teacher, setup.spread):
        written = str(value).lower()
        yield _teacher(f"teacher.{key}: {written}", teacher.with_setting(**{key: value}))
    if isinstance(stage, TrainStage):
        yield _teacher("teacher.kind: store", None)


def _places(stage: Training, teacher: Beside, spread: Spread) -> Iterator[tuple[str, bool | str]]:
    """Where else its weights can be, by `llmkd.recipe.teacher_checks`."""
    source = teacher.source
    if source.quantization is not None:
        return
    if isinstance(stage, TrainStage) and spread.num_processes > 1 and not source.sharded:
        yield "sharded", True
    if source.offload is None:
        yield "offload", "cpu"
    if not (source.sharded or source.offload or source.adapter_name_or_path):
        yield "quantization", "8bit"
        yield "quantization", "4bit"


def _teacher(text: str, teacher: Beside | None) -> Change:
    return Change(text, "teacher", lambda old: replace(old, teacher=teacher))


def _lora(stage: Training, setup: Setup) -> Iterator[Change]:
    source, shape = stage.student, setup.student.shape
    if not isinstance(source, PretrainedStudent) or source.lora is not None:
        return
    if not isinstance(shape, Shape):
        return
    try:
        count = num_lora_parameters(shape, LoraConfig().r, LoraConfig().target_modules)
    except NotKnownError:
        return
    student = replace(setup.student, trainable=Fact(count, "exact"))
    yield Change("student.lora: {r: 16}", "lora", lambda old: replace(old, student=student))


def _argument(key: str, value: bool | str) -> Change:
    return Change(f"trainer.{key}: {str(value).lower()}", key, partial(_with, {key: value}))


def _with(changed: Mapping[str, Any], setup: Setup) -> Setup:
    return replace(setup, arguments={**setup.arguments, **changed})


def _by(engine: str, setup: Setup) -> Setup:
    return replace(setup, spread=replace(setup.spread, engine=engine))
