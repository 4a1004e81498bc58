"""What a student wrote: `rollouts.jsonl`, and in `validation.jsonl` how good it was."""

from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from llmkd.training.metrics import JsonLines
from llmkd.training.trl_compat import HookedGRPOTrainer

PREFIX = "eval_"
NUM_ROLLOUTS = 4
"""Of each log line, as many of the first group as this."""


class RolloutsFile(JsonLines):
    """Appends a few rollouts of every log line: what is rewarded is to be looked at.

    Args:
        path: The file.
        trainer: Whose rollouts they are.
    """

    def __init__(self, path: Path, trainer: HookedGRPOTrainer):
        super().__init__(path)
        self.trainer = trainer

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Lines of this step."""
        if logs and "grad_norm" in logs:
            for rollout in self.trainer.latest_rollouts(NUM_ROLLOUTS):
                self.append(state, rollout)


class ValidationFile(JsonLines):
    """Appends every validation, on the main process, and has the last step validated too."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """The end of the training is worth a look."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = True

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **found: Any,
    ) -> None:
        """One JSON object per validation."""
        metrics: dict[str, float] = found["metrics"]
        own = {key.removeprefix(PREFIX): value for key, value in metrics.items()}
        self.append(state, own)
