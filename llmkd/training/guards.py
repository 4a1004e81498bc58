"""Limits that a KDRL training must not cross for long."""

from collections.abc import Sequence
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from llmkd.errors import LlmkdError
from llmkd.progress import say
from llmkd.recipe.kdrl import Guard
from llmkd.training.kept_state import KeepsState
from llmkd.training.phases import Phases

LOGGED = {
    "completion_length": "completions/mean_length",
    "clipped_share": "completions/clipped_ratio",
    "entropy": "entropy",
    "reverse_kl": "kd/reverse_kl",
}
"""What a guard's metric is called in the log."""
SOFTER = 0.5
"""What is left of the coefficient each time."""


class Guards(KeepsState):
    """Looks at every log line.

    Args:
        guards: As the recipe has them.
        phases: What is softened.
    """

    def __init__(self, guards: Sequence[Guard], phases: Phases):
        self.guards = guards
        self.phases = phases
        self.num_crossed = [0] * len(guards)
        """Log lines in a row in which each limit was crossed."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float | None] | None = None,
        **_: Any,
    ) -> None:
        """Counts, and acts.

        Raises:
            LlmkdError: A guard that stops has tripped.
        """
        for index, guard in enumerate(self.guards):
            value = (logs or {}).get(LOGGED[guard.metric])
            if value is None:
                continue
            self.num_crossed[index] = self.num_crossed[index] + 1 if crosses(guard, value) else 0
            if self.num_crossed[index] >= guard.patience:
                self.num_crossed[index] = 0
                self._act(guard, index, value, state)

    def _act(self, guard: Guard, index: int, value: float, state: TrainerState) -> None:
        found = (
            f"guards.{index}: step {state.global_step}: {guard.metric} is {value:.4g}, and was "
            f"{limit(guard)} for {guard.patience} log lines in a row"
        )
        if guard.action == "stop":
            raise LlmkdError(
                f"{found}; look at the rollouts, lower objective.coefficient or "
                "trainer.learning_rate, or go on from an earlier checkpoint by resume: PATH"
            )
        if self.phases.coefficient(state.global_step) == 0:
            return
        self.phases.softness *= SOFTER
        if state.is_world_process_zero:
            say(
                f"{found}; the teacher's coefficient is now {self.phases.softness:g} of what it was"
            )

    def state(self) -> dict[str, Any]:
        """See `KeepsState`."""
        return {"num_crossed": self.num_crossed}

    def restore(self, state: dict[str, Any]) -> None:
        """See `KeepsState`; other guards than the checkpoint's count from 0."""
        if len(state.get("num_crossed", [])) == len(self.guards):
            super().restore(state)


def crosses(guard: Guard, value: float) -> bool:
    """Whether a value is beyond the guard's limits."""
    is_above = guard.above is not None and value > guard.above
    return is_above or (guard.below is not None and value < guard.below)


def limit(guard: Guard) -> str:
    """`above 3`, `below 0.1`, or both."""
    sides = {"above": guard.above, "below": guard.below}
    return " or ".join(f"{side} {value:g}" for side, value in sides.items() if value is not None)
