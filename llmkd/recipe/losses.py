"""The terms of the objective: {loss, weight, temperature}, one mapping each."""

from typing import Annotated, Literal

from pydantic import Field, Tag

from llmkd.recipe.base import RecipePart, kind_or
from llmkd.recipe.rationale import Part


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


class KeptFraction(RecipePart):
    """A constant weight between two, by the fraction of its rows that a curate stage kept.

    A straight line from `at_none` to `at_all`. Ben-Baruch et al. find that the fewer rows are kept, the
    more weight belongs to the teacher; they give no formula, and the line is ours.

    References:
        Ben-Baruch et al. 2024, "Distilling the Knowledge in Data Pruning",
        https://arxiv.org/abs/2403.07854.
    """

    kind: Literal["kept_fraction"]
    stage: str = Field(min_length=1)
    """The curate stage, as `stage:NAME`."""
    at_none: float = Field(default=1.0, ge=0)
    """The weight where hardly a row is kept."""
    at_all: float = Field(default=0.5, ge=0)
    """The weight where all rows are kept."""


Weight = Annotated[
    Annotated[float, Field(ge=0), Tag("constant")]
    | Annotated[LinearSchedule, Tag("linear")]
    | Annotated[CosineSchedule, Tag("cosine")]
    | Annotated[KeptFraction, Tag("kept_fraction")],
    kind_or("constant"),
]


class LossTerm(RecipePart):
    """What every term has."""

    weight: Weight = 1.0
    """A number, or a schedule: `{kind: linear, start: 1.0, end: 0.1}`."""
    name: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_]*$")
    """What metrics call the term: `loss/NAME`. Default: its kind."""
    part: Part | None = None
    """What of each row the term is of, under `data.rationale: {kind: step_by_step}`; it is a mean over
    the tokens of that part alone."""


class CrossEntropyTerm(LossTerm):
    """-log q(label): learn the text itself, from labels or from what a teacher wrote."""

    kind: Literal["cross_entropy"]


class LabelMSETerm(LossTerm):
    """(output - label)^2: of a model that gives a number, where `data.problem_type` is regression."""

    kind: Literal["label_mse"]


class TeacherTerm(LossTerm):
    """What compares the student with a teacher."""


class DivergenceTerm(TeacherTerm):
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


class SkewForwardKLTerm(DivergenceTerm):
    """KL(teacher || mixture of both): forward KL, bounded where the student is far off."""

    kind: Literal["skew_forward_kl"]
    alpha: float = Field(default=0.1, gt=0, lt=1)
    """The teacher's share in the mixture."""


class SkewReverseKLTerm(DivergenceTerm):
    """KL(student || mixture of both): reverse KL, bounded where the teacher rules a token out."""

    kind: Literal["skew_reverse_kl"]
    alpha: float = Field(default=0.1, gt=0, lt=1)
    """The student's share in the mixture."""


class TotalVariationTerm(DivergenceTerm):
    """Half the sum of |teacher - student| over the vocabulary: symmetric, at most 1."""

    kind: Literal["total_variation"]


class AdaptiveKLTerm(DivergenceTerm):
    """Forward and reverse KL, weighed by where the student is off: the teacher's head or its tail."""

    kind: Literal["adaptive_kl"]
    head_mass: float = Field(default=0.5, gt=0, lt=1)
    """The teacher's probability that its likeliest tokens, the head, may hold."""


class ToDiTerm(DivergenceTerm):
    """Forward KL on tokens that the student finds too unlikely, reverse KL on the others."""

    kind: Literal["todi"]


class NKDTerm(TeacherTerm):
    """The label as far as the teacher trusts it, and apart from it the teacher's order of the rest.

    Its formula has temperature squared in its second part, so there is no `temperature_scaling`.
    """

    kind: Literal["nkd"]
    temperature: float = Field(default=1.0, gt=0)
    """Divides both models' logits in the second part, which is multiplied by its square."""
    non_target_weight: float = Field(default=1.5, ge=0)
    """Weight of the second part."""


class LogitMSETerm(TeacherTerm):
    """Mean squared difference of the logits themselves, which have no temperature.

    The one term with a teacher for regression, where a softmax over one output would always be 1.
    """

    kind: Literal["logit_mse"]


class BatchTerm(TeacherTerm):
    """What compares batches of distributions, not caring which example has which."""

    max_rows: int = Field(default=256, gt=0)
    """Rows compared at once; where a micro-batch has more trained tokens, so many are drawn at
    random. Time and memory grow with its square."""
    top_k: int = Field(default=16, gt=0)
    """Language models compare over the teacher's so many most likely tokens at each position, the
    labels, and one column for all other tokens."""


class SinkhornTerm(BatchTerm):
    """Sinkhorn divergence: the price of moving the batch's distributions onto the teacher's."""

    kind: Literal["sinkhorn"]
    temperature: float = Field(default=1.0, gt=0)
    """Divides both models' logits. The term is not scaled for it."""
    epsilon: float = Field(default=0.1, gt=0)
    """Weight of the entropy, beside distances from 0 to 2: less is nearer to exact transport, and
    takes more iterations."""
    max_iterations: int = Field(default=1000, gt=0)
    """Iterations after which the plan is taken as it is."""
    tolerance: float = Field(default=1e-3, gt=0)
    """Error of the plan's marginals at which to stop, as logged."""


class SinkhornPaperTerm(BatchTerm):
    """SinKD as published: 20 iterations at epsilon 0.1 and temperature 2, without debiasing."""

    kind: Literal["sinkhorn_paper"]
    factor: float = Field(default=0.001, gt=0)
    """Published for BERT; for T0 and GPT-Neo it is 0.0008. `weight` comes on top: there 0.8."""


PointwiseLoss = (
    CrossEntropyTerm
    | LabelMSETerm
    | ForwardKLTerm
    | ReverseKLTerm
    | JSDTerm
    | SkewForwardKLTerm
    | SkewReverseKLTerm
    | TotalVariationTerm
    | AdaptiveKLTerm
    | ToDiTerm
    | NKDTerm
    | LogitMSETerm
)
"""Terms with a value at every position."""
Loss = Annotated[PointwiseLoss | SinkhornTerm | SinkhornPaperTerm, Field(discriminator="kind")]
