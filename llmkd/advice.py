"""What to do about a stage that ended: which keys take less memory, and where it goes on."""

import signal
from pathlib import Path

from llmkd.recipe.data import Task
from llmkd.recipe.evaluation import Suite, compares_with_teacher
from llmkd.recipe.evaluation_base import TextTask
from llmkd.recipe.grpo_arguments import GRPO
from llmkd.recipe.losses import BatchTerm
from llmkd.recipe.models import PretrainedModel, PretrainedStudent
from llmkd.recipe.schema import (
    CurateStage,
    EvaluateStage,
    GenerateStage,
    KDRLStage,
    MergeStage,
    PruneStage,
    ScoreStage,
    Stage,
    TaskRowsStage,
    TrainStage,
)
from llmkd.recipe.teacher_data import ServerEngine, TransformersEngine, VLLMEngine
from llmkd.recipe.training_arguments import effective
from llmkd.training.checkpoints import newest_checkpoint

DEFAULT_BATCH_SIZE = 8
"""transformers' `per_device_train_batch_size`."""
OPTIMIZERS_OF_MATRICES = ("adafactor", "lomo", "galore", "apollo")
"""Parts of the names of optimizers that go by a weight's rows and columns."""
FRUGAL_OPTIMIZERS = (*OPTIMIZERS_OF_MATRICES, "sgd", "8bit", "4bit")
"""Parts of the names of optimizers with smaller states than Adam's."""


def is_of_matrices(optimizer: str) -> bool:
    """Whether an optimizer, by transformers' name, needs weights in their own shapes."""
    return any(part in optimizer for part in OPTIMIZERS_OF_MATRICES)


def goes_on(stage: Stage, folder: Path) -> str:
    """What the same command does next, to follow "the same command"."""
    match stage:
        case TrainStage(resume="auto") | KDRLStage(resume="auto") if (
            checkpoint := newest_checkpoint(folder / "checkpoints")
        ):
            return f"goes on from {checkpoint.name}"
        case TrainStage(resume=resume) | KDRLStage(resume=resume) if resume not in (
            "auto",
            "never",
        ):
            return f"goes on from {resume}"
        case GenerateStage() | ScoreStage() if any((folder / "store" / "shards").glob("*.arrow")):
            return "goes on after the last whole shard"
        case CurateStage() if any(folder.glob("journal/*.jsonl")):
            return "goes on with the verdicts that are left"
        case EvaluateStage() if any(folder.rglob("answers.jsonl")):
            return "goes on with the answers that are left"
    return "begins the stage again"


def how_it_ended(stage: Stage, folder: Path, status: int) -> str:
    """What is known of a stage's process that ended with a status other than 0.

    Args:
        stage: What the process did.
        folder: Where it wrote.
        status: As `subprocess` gives it: below 0 the number of the signal that killed it.
    """
    go_on = f"the same command again {goes_on(stage, folder)}"
    if status >= 0:
        return f"failed with exit status {status}; {go_on}"
    how = f"was killed by signal {-status} ({_signal_name(-status)})"
    if -status == signal.SIGKILL:
        return (
            f"{how}, as the system does when memory runs out (see `dmesg`); {go_on}. If it was "
            f"memory: {less_memory(stage)}"
        )
    if -status == signal.SIGBUS:
        return f"{how}, as on a full disk or a full /dev/shm; make room there, and {go_on}"
    return f"{how}; {go_on}"


def less_memory(stage: Stage) -> str:
    """What to write so that the stage takes less memory, and how to run it then."""
    # A changed key makes another stage of it, which is refused in the old folder.
    keys = ", or ".join(smaller(stage))
    return f"write {keys}; then run with --overwrite, which does this stage anew"


def smaller(stage: Stage) -> list[str]:
    """The keys that make the stage take less memory, with values where they follow."""
    match stage:
        case TrainStage():
            return _of_training(stage)
        case KDRLStage():
            return _of_rollouts(stage)
        case MergeStage():
            return ["fewer `models`"]
        case GenerateStage(generation=generation):
            length = f"generation.max_completion_length below {generation.max_completion_length}"
            return _of_capture(stage, length)
        case ScoreStage(data=data):
            is_task = isinstance(data, Task)
            return _of_capture(
                stage, *([] if is_task else [f"data.max_length below {data.max_length}"])
            )
        case CurateStage() | TaskRowsStage():
            return ["fewer rows: num_examples in data"]
        case PruneStage():
            return _of_pruning(stage)
        case EvaluateStage():
            return _of_evaluation(stage)


def _of_training(stage: TrainStage) -> list[str]:
    trainer = stage.trainer
    size = trainer.get("per_device_train_batch_size", DEFAULT_BATCH_SIZE)
    steps = 2 * trainer.get("gradient_accumulation_steps", 1)
    # A term over a batch compares the rows of one micro-batch only.
    is_same = not any(isinstance(term, BatchTerm) for term in stage.losses)
    promise = " (the same loss)" if is_same else ""
    keys = [
        f"{key} with trainer.gradient_accumulation_steps: {steps}{promise}"
        for key in _halved("trainer.per_device_train_batch_size", size)
    ]
    if not isinstance(stage.data, Task):
        keys.append(f"data.max_length below {stage.data.max_length}")
    if not (trainer.get("gradient_checkpointing") or trainer.get("activation_checkpointing")):
        keys.append("trainer.gradient_checkpointing: true")
    if isinstance(stage.student, PretrainedStudent) and stage.student.lora is None:
        keys.append("student.lora: {r: 16}")
    keys += _narrow("teacher", stage.local_teacher)
    if not any(part in trainer.get("optim", "adamw") for part in FRUGAL_OPTIMIZERS):
        keys.append("trainer.optim: adafactor (not with DeepSpeed or FSDP)")
    return [*keys, "a smaller student"]


def _of_rollouts(stage: KDRLStage) -> list[str]:
    trainer = effective(stage.trainer, GRPO)
    steps = 2 * trainer["gradient_accumulation_steps"]
    keys = [
        f"{key} with trainer.gradient_accumulation_steps: {steps} (the same loss)"
        for key in _halved(
            "trainer.per_device_train_batch_size", trainer["per_device_train_batch_size"]
        )
    ]
    keys.append(f"trainer.max_completion_length below {trainer['max_completion_length']}")
    if not trainer["gradient_checkpointing"]:
        keys.append("trainer.gradient_checkpointing: true")
    if stage.student.lora is None:
        keys.append("student.lora: {r: 16}")
    for key, teacher in stage.local_teachers.items():
        keys += _narrow(key, teacher)
        if teacher.offload is None:
            keys.append(f"{key}.offload: cpu (with an accelerator)")
    return [*keys, "a smaller student"]


def _of_capture(stage: GenerateStage | ScoreStage, *lengths: str) -> list[str]:
    match stage.engine or TransformersEngine():
        case TransformersEngine(batch_size=batch_size):
            sizes = _halved("engine.batch_size", batch_size)
        case VLLMEngine(gpu_memory_utilization=share):
            sizes = [f"engine.gpu_memory_utilization below {share:g}"]
        case ServerEngine():
            sizes = []
    shard = _halved("shard_size", stage.shard_size)
    return [*sizes, *lengths, *shard, *_narrow("teacher", stage.teacher)]


def _of_pruning(stage: PruneStage) -> list[str]:
    lengths = (
        []
        if isinstance(stage.data, Task | None)
        else [f"data.max_length below {stage.data.max_length}"]
    )
    return [*_halved("batch_size", stage.batch_size), *lengths, *_narrow("model", stage.model)]


def _of_evaluation(stage: EvaluateStage) -> list[str]:
    keys = [] if stage.batch_size == "auto" else _halved("batch_size", stage.batch_size)
    tasks = stage.suite.tasks if isinstance(stage.suite, Suite) else []
    for index, task in enumerate(tasks):
        if isinstance(task, TextTask):
            keys.append(f"suite.tasks.{index}.data.max_length below {task.data.max_length}")
    if isinstance(stage.suite, str) or compares_with_teacher(stage.suite):
        keys += _narrow("teacher", stage.teacher)
    return keys or ["fewer or smaller `models`"]


def _halved(key: str, size: int) -> list[str]:
    return [f"{key}: {size // 2}"] if size > 1 else []


def _narrow(key: str, model: PretrainedModel | None) -> list[str]:
    return [f"{key}.dtype: bfloat16"] if model is not None and model.dtype == "float32" else []


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "a real-time signal"
