"""An estimate of the memory of an evaluate stage at its peak. Formulas, not measurements.

Models are measured one after the other, and each goes when its tasks are done. Beside the one that is
measured stand, in bytes (s bytes per weight, V vocabulary):

    teacher      from the first task that compares with it on, unless the measured model is the
                 teacher itself: its weights, and what it computes in such a task
    logits       where text is scored, s V for each position of a batch and each model, of 2^26
                 logits at most, unless one row has more
    copies       4 V for each of at most 1024 positions: 2 times, and 8.25 times against a teacher
    measuring    of `cost`, which has a process of its own: the runtime of the one that waits for it

Tasks that vLLM or a server answers, and `cost`, begin with no model here. What vLLM takes is its own.
"""

from collections.abc import Sequence
from dataclasses import replace

from llmkd.check.architectures import Shape
from llmkd.check.facts import Fact, NotKnownError, value_of
from llmkd.check.memory import RUNTIME_BYTES, generate_memory
from llmkd.check.models import Model
from llmkd.evaluation.budgets import LOGITS_AT_ONCE, POSITIONS_AT_ONCE
from llmkd.recipe.distillation_effects import AgreementTask, CostTask, DraftTask, TeacherTask
from llmkd.recipe.evaluation import (
    EvaluationTask,
    Suite,
    compares_with_teacher,
    is_in_transformers,
)
from llmkd.recipe.evaluation_base import TextTask
from llmkd.recipe.reasoning import ReasoningTask
from llmkd.recipe.schema import EvaluateStage
from llmkd.recipe.teacher_data import ServerEngine, TransformersEngine

COPIES_ALONE, COPIES_OF_EACH, COPIES_OF_A_DRAFT = 2, 4.125, 2


def evaluation_memory(
    stage: EvaluateStage,
    suite: Suite,
    models: Sequence[Model],
    teacher: Model | None,
    lengths: Sequence[Sequence[Fact]],
) -> Fact:
    """The peak over all models and tasks, in the order in which they are measured.

    Args:
        stage: What is measured, and by which engine.
        suite: That of the stage, read.
        models: Those of the stage.
        teacher: That of the stage.
        lengths: Of each task, for each model, the tokens of its longest sequence.
    """
    needed: list[Fact] = []
    stands = False
    teacher = teacher if compares_with_teacher(suite) else None
    for number, model in enumerate(models):
        is_teacher = teacher is not None and _is_teacher(stage, number, model, teacher)
        for task, of_models in zip(suite.tasks, lengths, strict=True):
            is_here = is_in_transformers(task, stage.engine)
            stands = is_here and (stands or is_teacher or isinstance(task, TeacherTask))
            beside = teacher if stands and not is_teacher else None
            if is_here or isinstance(task, CostTask):
                size = _at_once(stage, task)
                needed.append(_of_task(task, model, beside, size, of_models[number]))
            else:
                needed.append(Fact(None, "not known", _elsewhere(stage)))
    return _largest(needed)


def _is_teacher(stage: EvaluateStage, number: int, model: Model, teacher: Model) -> bool:
    """Whether one copy serves both, as of `llmkd.evaluation.subject.Subject.is_as_loaded`."""
    assert stage.teacher is not None
    source = stage.sources[number]
    is_alike = model.bytes_per_parameter == teacher.bytes_per_parameter
    return is_alike and source.names_the_model_of(stage.teacher)


def _at_once(stage: EvaluateStage, task: EvaluationTask) -> int:
    if isinstance(task, CostTask):
        return task.batch_size
    if isinstance(task, DraftTask):
        return 1
    most = 1 if stage.batch_size == "auto" else stage.batch_size
    if isinstance(task, ReasoningTask) and isinstance(stage.engine, TransformersEngine):
        return min(most, stage.engine.batch_size)
    return most


def _elsewhere(stage: EvaluateStage) -> str:
    if isinstance(stage.engine, ServerEngine):
        return "the server's"
    return "vLLM takes gpu_memory_utilization of the accelerator"


def _of_task(
    task: EvaluationTask, model: Model, teacher: Model | None, num_sequences: int, length: Fact
) -> Fact:
    """With the teacher that stands beside the model; None where there is none, or the model is it."""
    found = _work(task, model, num_sequences, length)
    if isinstance(task, CostTask):
        return _plus(found, "measuring", Fact(RUNTIME_BYTES, "estimate"))
    is_compared = isinstance(task, TeacherTask)
    if teacher is None and not is_compared:
        return found
    other = model if teacher is None else teacher
    theirs = _work(task, other, num_sequences, length) if is_compared else _weights(other)
    left_out = ("runtime", "weights") if teacher is None else ("runtime",)
    return _plus(found, "teacher", _without(theirs, left_out))


def _work(task: EvaluationTask, model: Model, num_sequences: int, length: Fact) -> Fact:
    """One model at a task: of unknown length, its weights alone."""
    try:
        fact = generate_memory(model, num_sequences, length)
    except NotKnownError as error:
        how = f"weights alone: {error}"
        weights = _weights(model)
        return weights if weights.value is None else replace(weights, exactness="at least", how=how)
    if not isinstance(model.shape, Shape) or not isinstance(task, TextTask | DraftTask | CostTask):
        return fact
    parts = dict(fact.parts)
    if isinstance(task, TextTask):
        parts.pop("cache", None)
    parts["logits"] = _logits(
        task, model.bytes_per_parameter, model.shape.vocab_size, num_sequences, value_of(length)
    )
    return replace(fact, value=sum(parts.values()), parts=parts)


def _logits(
    task: TextTask | DraftTask | CostTask, width: int, vocab_size: int, rows: int, length: int
) -> int:
    """Of all positions, and the float32 copies of those that are looked at."""
    positions = rows * length
    if isinstance(task, CostTask):
        return positions * vocab_size * width
    if isinstance(task, DraftTask):
        return positions * vocab_size * (width + 4 * COPIES_OF_A_DRAFT)
    positions = min(positions, max(length, LOGITS_AT_ONCE // vocab_size))
    copies = COPIES_OF_EACH if isinstance(task, AgreementTask) else COPIES_ALONE
    looked_at = min(positions, POSITIONS_AT_ONCE)
    return round(vocab_size * (positions * width + looked_at * 4 * copies))


def _weights(model: Model) -> Fact:
    if model.parameters.value is None:
        return model.parameters
    size = int(model.parameters.value) * model.bytes_per_parameter
    parts = {"weights": size, "runtime": RUNTIME_BYTES}
    return Fact(sum(parts.values()), "estimate", "estimate", "bytes", parts)


def _without(fact: Fact, names: Sequence[str]) -> Fact:
    if fact.value is None:
        return fact
    parts = {name: size for name, size in fact.parts.items() if name not in names}
    return replace(fact, value=sum(parts.values()), parts=parts)


def _plus(fact: Fact, name: str, more: Fact) -> Fact:
    """A fact with one part more, which may not be known."""
    if fact.value is None:
        return fact
    if more.value is None:
        how = f"{fact.how}, without the {name}: {more.how}"
        return replace(fact, exactness="at least", how=how)
    parts = {**fact.parts, name: int(more.value)}
    exactness = "at least" if "at least" in (fact.exactness, more.exactness) else fact.exactness
    return replace(fact, value=sum(parts.values()), exactness=exactness, parts=parts)


def _largest(needed: Sequence[Fact]) -> Fact:
    there = [fact for fact in needed if fact.value is not None]
    gaps = [fact for fact in needed if fact.value is None or fact.exactness == "at least"]
    if not there:
        return needed[0]
    largest = max(there, key=value_of)
    if not gaps:
        return largest
    return replace(largest, exactness="at least", how=gaps[0].how)
