"""What really drives the training, said at its start: launchers can fall back in silence."""

from typing import Any

from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmkd.progress import say


class EngineReport(TrainerCallback):
    """Says the engine's class, its ZeRO stage, the number of processes and the device.

    Args:
        trainer: The trainer that the callback belongs to.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """One line, on the main process."""
        if state.is_world_process_zero:
            say(f"engine: {engine(self.trainer)}")


def engine(trainer: Trainer) -> str:
    """For example `DeepSpeedEngine, ZeRO stage 2, 2 processes, cpu`."""
    wrapped: Any = trainer.model_wrapped
    accelerator = trainer.accelerator
    parts = [type(wrapped).__name__]
    if hasattr(wrapped, "zero_optimization_stage"):
        parts.append(f"ZeRO stage {wrapped.zero_optimization_stage()}")
    if any(isinstance(parameter, DTensor) for parameter in wrapped.parameters()):
        parts.append("DTensor parameters")
    number = accelerator.num_processes
    parts.append(f"{number} process{'es' if number > 1 else ''}")
    return ", ".join([*parts, str(accelerator.device)])
