"""SIGTERM: save a checkpoint at the end of the step, then leave with status 143."""

import signal
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

EXIT_STATUS = 128 + signal.SIGTERM


class SaveOnSigterm(TrainerCallback):
    """Turns SIGTERM into a checkpoint and an orderly end of training.

    Only where one process trains: ranks that got the signal at different steps would wait for each
    other for ever.
    """

    def __init__(self) -> None:
        self.is_interrupted = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Takes over the signal."""
        if args.world_size == 1:
            signal.signal(signal.SIGTERM, self._interrupt)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Asks for a checkpoint and the end."""
        if self.is_interrupted:
            control.should_save = control.should_training_stop = True

    def _interrupt(self, *_: Any) -> None:
        self.is_interrupted = True
