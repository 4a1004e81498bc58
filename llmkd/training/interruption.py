"""SIGTERM: save a checkpoint at the end of the step, then leave with status 143."""

import signal
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmkd.training.finite_steps import FiniteSteps


class SaveOnSigterm(TrainerCallback):
    """Turns SIGTERM into a checkpoint and an orderly end of training.

    Where several processes train it is enough that one of them gets the signal: before each step's
    optimizer they tell each other, and all of them end after the same step. So a signal that comes
    later than that is heeded one step later.

    Args:
        trainer: The trainer that the callback belongs to.
    """

    def __init__(self, trainer: FiniteSteps):
        self.trainer = trainer
        self.is_interrupted = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Takes over the signal."""
        signal.signal(signal.SIGTERM, self._interrupt)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Asks for a checkpoint and the end."""
        is_alone = args.world_size == 1
        if self.trainer.is_asked_to_end if is_alone else self.trainer.is_ending:
            self.is_interrupted = control.should_save = control.should_training_stop = True

    def _interrupt(self, *_: Any) -> None:
        self.trainer.is_asked_to_end = True
