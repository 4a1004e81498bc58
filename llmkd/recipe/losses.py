"""The terms of the objective: {loss, weight, temperature}, one mapping each."""

from typing import Annotated, Literal

from pydantic import Field, Tag

from llmkd.recipe.base import RecipePart, kind_or


class LinearSchedule(RecipePart):
    """From `start` to `end` in a straight line over `num_steps` steps, then constant."""

    kind: Literal["linear"]
    start: float = Field(ge=0)
    """Weight of the first step."""
    end: float = Field(ge=0)
    """Weight from step `num_steps` on."""
    num_steps: int | None = Field(default=None, gt=0)
    """Optimizer steps from start to end; null takes the whole training."""


class CosineSchedule(RecipePart):
    """From `start` to `end` along half a cosine over `num_steps` steps, then constant."""

    kind: Literal["cosine"]
    start: float = Field(ge=0)
    """Weight of the first step."""
    end: float = Field(ge=0)
    """Weight from step `num_steps` on."""
    num_steps: int | None = Field(default=None, gt=0)
    """Optimizer steps from start to end; null takes the whole training."""


Schedule = LinearSchedule | CosineSchedule
Weight = Annotated[
    Annotated[float, Field(ge=0), Tag("constant")]
    | Annotated[LinearSchedule, Tag("linear")]
    | Annotated[CosineSchedule, Tag("cosine")],
    kind_or("constant"),
]


class LossTerm(RecipePart):
    """What every term has."""

    weight: Weight = 1.0
    """A number, or a schedule: `{kind: linear, start: 1.0, end: 0.1}`."""
    name: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_]*$")
    """What metrics call the term: `loss/NAME`. Default: its kind."""


class CrossEntropyTerm(LossTerm):
    """-log q(label): learn the text itself, from labels or from what a teacher wrote."""

    kind: Literal["cross_entropy"]


class DivergenceTerm(LossTerm):
    """A divergence between the teacher's and the student's next-token distributions."""

    temperature: float = Field(default=1.0, gt=0)
    """Divides both models' logits."""
    temperature_scaling: Literal["squared", "none"] = "squared"
    """`squared` multiplies the term by temperature squared, which keeps the gradient's size."""


class ForwardKLTerm(DivergenceTerm):
    """KL(teacher || student): cover all that the teacher finds likely."""

    kind: Literal["forward_kl"]


class ReverseKLTerm(DivergenceTerm):
    """KL(student || teacher): stay within what the teacher finds likely."""

    kind: Literal["reverse_kl"]


class JSDTerm(DivergenceTerm):
    """Generalised Jensen-Shannon divergence, between the two KL divergences."""

    kind: Literal["jsd"]
    teacher_weight: float = Field(default=0.5, gt=0, lt=1)
    """The teacher's share in the mixture that both are compared with."""


Loss = Annotated[
    CrossEntropyTerm | ForwardKLTerm | ReverseKLTerm | JSDTerm, Field(discriminator="kind")
]
