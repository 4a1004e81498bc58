"""What the distillation term and the rewards weigh at each step of a KDRL training."""

from typing import Any, assert_never

from transformers import TrainerControl, TrainerState, TrainingArguments

from llmkd import schedules
from llmkd.progress import say
from llmkd.recipe.kdrl import GRPO, KDRL, OPD, Objective, OPDThenRL, SwitchAtPlateau, SwitchAtStep
from llmkd.recipe.losses import CosineSchedule, LinearSchedule
from llmkd.training.kept_state import KeepsState


class Phases(KeepsState):
    """The weights of one objective as functions of the step, and when the second phase began.

    Args:
        objective: As the recipe has it.
    """

    def __init__(self, objective: Objective):
        self.objective = objective
        self.softness = 1.0
        """What guards have left of the coefficient."""
        self.switch_step: int | None = None
        """The first step of reinforcement alone, once it is known."""
        self._max_steps = 1
        match objective:
            case OPDThenRL(switch=SwitchAtStep(step=step)):
                self.switch_step = step

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Learns how long the training is, for schedules over all of it."""
        self._max_steps = state.max_steps

    def coefficient(self, step: int) -> float:
        """What the distillation term is multiplied by."""
        if isinstance(self.objective, GRPO) or self.is_second(step):
            return 0.0
        return self.softness * self._scheduled(step)

    def reward_weight(self, step: int) -> float:
        """What all advantages are multiplied by."""
        match self.objective:
            case GRPO() | KDRL():
                return 1.0
            case OPD():
                return 0.0
            case OPDThenRL():
                return float(self.is_second(step))
            case unknown:
                assert_never(unknown)

    def is_second(self, step: int) -> bool:
        """Whether the teacher is done with."""
        return self.switch_step is not None and step >= self.switch_step

    def state(self) -> dict[str, Any]:
        """See `KeepsState`."""
        found: dict[str, Any] = {"softness": self.softness}
        # A step that the recipe names is the recipe's: who resumes with another one means it.
        if isinstance(getattr(self.objective, "switch", None), SwitchAtPlateau):
            found["switch_step"] = self.switch_step
        return found

    def _scheduled(self, step: int) -> float:
        assert not isinstance(self.objective, GRPO)
        match self.objective.coefficient:
            case LinearSchedule(start=start, end=end, num_steps=num_steps):
                return schedules.linear(start, end, num_steps or self._max_steps)(step)
            case CosineSchedule(start=start, end=end, num_steps=num_steps):
                return schedules.cosine(start, end, num_steps or self._max_steps)(step)
            case value:
                return value


class Plateau(KeepsState):
    """Begins the second phase once the validation's accuracy has stopped rising.

    Args:
        rule: As the recipe has it.
        phases: What is switched.
        correct: The name of the reward that is the accuracy.
    """

    def __init__(self, rule: SwitchAtPlateau, phases: Phases, correct: str):
        self.rule = rule
        self.phases = phases
        self.metric = f"eval_rewards/{correct}/mean"
        self.best = float("-inf")
        self.num_flat = 0

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **found: Any,
    ) -> None:
        """Looks at a validation."""
        accuracy: float | None = found["metrics"].get(self.metric)
        if accuracy is None or self.phases.switch_step is not None:
            return
        has_risen = accuracy > self.best + self.rule.min_gain
        self.num_flat = 0 if has_risen else self.num_flat + 1
        self.best = max(self.best, accuracy)
        if self.num_flat >= self.rule.patience:
            self.phases.switch_step = state.global_step
            if state.is_world_process_zero:
                say(
                    f"step {state.global_step}: the accuracy stays near {self.best:.3g}; rewards alone from here on"
                )

    def state(self) -> dict[str, Any]:
        """See `KeepsState`."""
        return {"best": self.best, "num_flat": self.num_flat}
