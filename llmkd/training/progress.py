"""Training's progress bar."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmkd.progress import Progress

SHOWN = {
    "loss": "loss",
    "kl": "kl",
    "tokens_per_s": "tokens/s",
    "reward": "reward",
    "completions/mean_length": "length",
    "kd/reverse_kl": "kl",
}
"""What of a log line is shown, and what it is called there."""


class ProgressBar(TrainerCallback):
    """Shows the step, and what was logged last."""

    def __init__(self, progress: Progress):
        self.progress = progress
        self.figures: dict[str, float] = {}

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float | None] | None = None,
        **_: Any,
    ) -> None:
        """Remembers what to show."""
        found = {name: (logs or {}).get(name) for name in SHOWN}
        # TRL logs None where nothing was measured.
        self.figures |= {SHOWN[name]: value for name, value in found.items() if value is not None}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Moves the bar, on the main process."""
        if state.is_world_process_zero:
            self.progress(state.global_step, state.max_steps, **self.figures)
