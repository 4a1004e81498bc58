"""A stage that trains a student on its own rollouts: by rewards, by a teacher, or by both."""

from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from llmkd.recipe.base import RecipePart, kind_or
from llmkd.recipe.data import Prompts
from llmkd.recipe.losses import CosineSchedule, LinearSchedule
from llmkd.recipe.models import PretrainedStudent
from llmkd.recipe.rewards import Reward
from llmkd.recipe.rollout_teachers import RolloutModel, RolloutTeacher, named_teachers

Coefficient = Annotated[
    Annotated[float, Field(gt=0), Tag("constant")]
    | Annotated[LinearSchedule, Tag("linear")]
    | Annotated[CosineSchedule, Tag("cosine")],
    kind_or("constant"),
]
"""A weight, or how it moves with the optimizer step."""


class GRPO(RecipePart):
    """Rewards alone, as TRL has it. No teacher is asked.

    References:
        Shao et al. 2024, "DeepSeekMath", https://arxiv.org/abs/2402.03300, equation 3.
    """

    kind: Literal["grpo"]


class Imitation(RecipePart):
    """What objectives with a teacher have in common."""

    estimator: Literal["k2", "corrected_k3", "advantage", "full_vocabulary"] = "k2"
    """How KL(student || teacher) is taken: of the drawn tokens, as half the squared log-ratio (`k2`),
    as k3 times the ratio to the student that drew them, or as each token's advantage; or over the
    `full_vocabulary`, which has the least variance and needs the teacher in this process."""


class OPD(Imitation):
    """On-policy distillation: the teacher alone. Rewards are logged and teach nothing."""

    kind: Literal["opd"]
    coefficient: Coefficient = 1.0
    """What the distillation term is multiplied by."""


class KDRL(Imitation):
    """GRPO and the teacher in one loss: `GRPO + coefficient * KL(student || teacher)`.

    References:
        Xu et al. 2025, "KDRL: Post-Training Reasoning LLMs via Unified Knowledge Distillation and
        Reinforcement Learning", https://arxiv.org/abs/2506.02208, equation 8.
    """

    kind: Literal["kdrl"] = "kdrl"
    coefficient: Coefficient = 2e-3
    """What the distillation term is multiplied by. The paper's annealing is
    `{kind: linear, start: 5e-3, end: 1e-3, num_steps: 80}`."""
    mask: Literal["none", "response", "group"] = "none"
    """Which responses are imitated: all, the wrong ones (`response`), or those of groups without a
    right one (`group`)."""
    correct: str | None = None
    """The reward, by name, that is 1 for right responses, for the mask; null takes the first that
    looks at answers."""


class SwitchAtStep(RecipePart):
    """From a given step on."""

    kind: Literal["step"]
    step: int = Field(gt=0)
    """The first optimizer step of the second phase, counted from 0."""


class SwitchAtPlateau(RecipePart):
    """Once the validation's accuracy has stopped rising. Needs `validation`."""

    kind: Literal["plateau"]
    min_gain: float = Field(default=0.01, ge=0)
    """By how much the accuracy, in [0, 1], has to exceed its best so far to have risen."""
    patience: int = Field(default=2, gt=0)
    """Validations in a row without a rise."""


class OPDThenRL(Imitation):
    """On-policy distillation first, then GRPO alone.

    References:
        "Sequential Beats Joint", https://arxiv.org/abs/2609.04108, which switches when the validation
        of the first phase stops rising fast, by hand; the rule here is ours.
    """

    kind: Literal["opd_then_rl"]
    coefficient: Coefficient = 1.0
    """What the distillation term is multiplied by in the first phase."""
    switch: Annotated[SwitchAtStep | SwitchAtPlateau, Field(discriminator="kind")]
    """When the second phase begins. The checkpoint keeps the step."""


Objective = Annotated[
    Annotated[GRPO, Tag("grpo")]
    | Annotated[OPD, Tag("opd")]
    | Annotated[KDRL, Tag("kdrl")]
    | Annotated[OPDThenRL, Tag("opd_then_rl")],
    kind_or("kdrl"),
]


class Validation(RecipePart):
    """Prompts that the student answers now and then, to be looked at and never trained on."""

    data: Prompts
    """As `data`, with the same columns."""
    steps: int = Field(gt=0)
    """Every so many optimizer steps, and before the first."""


class Guard(RecipePart):
    """What to do about a run that collapses.

    References:
        With a large gap between teacher and student, KDRL can end in responses that fill every
        length: "TGPO", https://arxiv.org/abs/2605.13230.
    """

    metric: Literal["completion_length", "clipped_share", "entropy", "reverse_kl"]
    """Mean tokens of a response; the share of responses that were cut at `max_completion_length`; the
    student's entropy at a token; its KL from the teacher. The last two are nats per token."""
    above: float | None = None
    """Trips where the metric is more than this."""
    below: float | None = None
    """Trips where the metric is less than this."""
    patience: int = Field(default=10, gt=0)
    """Log lines in a row that it takes."""
    action: Literal["soften", "stop"] = "stop"
    """`stop` ends the run with an error; `soften` halves the teacher's coefficient, each time."""


class KDRLStage(RecipePart):
    """Trains a student on its own rollouts, by rewards, by a teacher, or by both. Product: a model folder.

    It stands on TRL's `GRPOTrainer`: `pip install 'llmkd[rl]'`.
    """

    kind: Literal["kdrl"]
    student: PretrainedStudent
    """What is trained: a causal language model that solves some of the problems already."""
    teacher: RolloutTeacher | None = None
    """Who scores the student's rollouts; none for `objective: {kind: grpo}`."""
    data: Prompts
    """The problems. Columns that rewards read are named in its `keep_columns`."""
    reward_funcs: list[Reward] = Field(min_length=1)
    """What responses are rewarded for; rewards are added up, each times its `weight`."""
    objective: Objective = KDRL()
    """What is minimised."""
    validation: Validation | None = None
    """What is measured while training; null measures nothing."""
    guards: list[Guard] = Field(default_factory=list)
    """Limits that a run must not cross for long."""
    trainer: dict[str, Any] = Field(default_factory=dict)
    """`trl.GRPOConfig` names, as they are: those of `transformers.TrainingArguments` and
    `num_generations`, `max_completion_length`, `temperature` and so on."""
    resume: str = "auto"
    """`auto` continues from the newest whole checkpoint, `never` starts over, a path continues
    from that checkpoint."""

    @property
    def local_teachers(self) -> dict[str, RolloutModel]:
        """The teachers beside the student, by where the recipe has them."""
        named = {} if self.teacher is None else named_teachers(self.teacher)
        return {key: each for key, each in named.items() if isinstance(each, RolloutModel)}

    @property
    def correct(self) -> str | None:
        """The name of the reward that says what is right, where the recipe names it."""
        return self.objective.correct if isinstance(self.objective, KDRL) else None
