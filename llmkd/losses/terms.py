"""What the chunked head computes of a few positions: values, and gradients in closed form.

Shapes: n positions, V vocabulary, K terms, D diagnostics.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llmkd.losses.divergences import LOG_PROB_FLOOR
from llmkd.losses.scratch import Scratch
from llmkd.losses.signals import SampledLogits, Signals, SparseLogits, TopKLogits

RULED_OUT = -1e30
"""A student's log-probability of what it rules out: not -inf, which times 0 is NaN."""

Targets = Int[Tensor, " n"] | Float[Tensor, " n"]
"""What is to be predicted: a token's or a label's number, or of a regression the label itself."""
TeacherRows = Float[Tensor, "n vocab"] | SparseLogits
Gradient = Callable[[Tensor], Tensor]
"""Writes the derivative of n values by the logits that a `Pair` divides by its temperature into a
tensor, [n, V], and returns it. That may be the logits' own, so these must have been read before."""
Formula = Callable[["Pair"], tuple[Tensor, Gradient]]
"""From both models' distributions to [n] values in nats, and their gradient.

Called in several threads, without automatic differentiation. What `Pair.new` gives is good until the
block is done; values must be tensors of their own.
"""

BatchLoss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]


class Pair:
    """Both models' distributions at n positions and one temperature, each computed once.

    All log-probabilities are finite, so that nothing multiplies 0 by infinity: the teacher's are at
    least `LOG_PROB_FLOOR`, the student's `RULED_OUT`.

    Args:
        student_logits: [n, V], float32 or float64.
        teacher: Its logits, [n, V], or a few of its log-probabilities; None where there is none.
        target_ids: The token that each position predicts, [n], or -100 for none; of a regression
            the label itself.
        temperature: Divides both models' logits.
        scratch: Where its tensors are; None makes new ones.
    """

    def __init__(
        self,
        student_logits: Float[Tensor, "n vocab"],
        teacher: TeacherRows | None,
        target_ids: Targets,
        temperature: float = 1.0,
        scratch: Scratch | None = None,
    ):
        self.student_logits = student_logits
        self.teacher = teacher
        self.target_ids = target_ids
        self.temperature = temperature
        self._scratch = scratch or Scratch()

    def new(self) -> Float[Tensor, "n vocab"]:
        """Room for a result, that no other result of this pair has."""
        return self._scratch.like(self.student_logits)

    @cached_property
    def summands(self) -> Float[Tensor, "n vocab"]:
        """Room for what is summed up at once; `dot` overwrites it."""
        return self.new()

    def dot(self, a: Float[Tensor, "n vocab"], b: Float[Tensor, "n vocab"]) -> Float[Tensor, " n"]:
        """The sum of a b over the vocabulary."""
        return torch.mul(a, b, out=self.summands).sum(-1)

    @property
    def teacher_logits(self) -> Float[Tensor, "n vocab"]:
        """The teacher's logits, where it gives all of them."""
        assert isinstance(self.teacher, Tensor), "a recipe with such a term has a dense teacher"
        return self.teacher

    @cached_property
    def log_q(self) -> Float[Tensor, "n vocab"]:
        """The student's log-probabilities."""
        return self._logprobs(self.student_logits).clamp_(min=RULED_OUT)

    @cached_property
    def log_p(self) -> Float[Tensor, "n vocab"]:
        """The teacher's log-probabilities."""
        return self._logprobs(self.teacher_logits).clamp_(min=LOG_PROB_FLOOR)

    def _logprobs(self, logits: Tensor) -> Tensor:
        # `llmkd.losses.divergences.logprobs` into a given place.
        if self.temperature != 1:
            logits = torch.div(logits, self.temperature, out=self.new())
        return torch.log_softmax(logits, dim=-1, out=self.new())

    @cached_property
    def q(self) -> Float[Tensor, "n vocab"]:
        """The student's probabilities."""
        return torch.exp(self.log_q, out=self.new())

    @cached_property
    def p(self) -> Float[Tensor, "n vocab"]:
        """The teacher's probabilities."""
        return torch.exp(self.log_p, out=self.new())

    @cached_property
    def log_ratio(self) -> Float[Tensor, "n vocab"]:
        """Log p - log q."""
        return torch.sub(self.log_p, self.log_q, out=self.new())


@dataclass(frozen=True)
class Divergence:
    """A divergence with its gradient, by what the teacher gives.

    Args:
        of_logits: Of both models' whole distributions.
        of_top_k: Of the teacher's top k tokens and one bucket for all others; None where that says
            nothing of the whole.
        of_samples: Of tokens drawn from the teacher; None where that would be biased.
        is_of_labels: It needs no more of the teacher than the label's log-probability.
        has_floor: It counts what the teacher rules out as `LOG_PROB_FLOOR`.
        has_temperature: A term may divide both logits by a temperature.
    """

    of_logits: Formula
    of_top_k: Formula | None = None
    of_samples: Formula | None = None
    is_of_labels: bool = False
    has_floor: bool = False
    has_temperature: bool = True

    def formula(self, teacher: Signals | None) -> Formula | None:
        """The one for such a teacher, or None where there is none."""
        if isinstance(teacher, TopKLogits):
            return self.of_top_k
        return self.of_samples if isinstance(teacher, SampledLogits) else self.of_logits


@dataclass(frozen=True)
class HeadTerm:
    """One divergence to take of the heads' logits: a term of the loss, or a diagnostic."""

    name: str
    divergence: Divergence
    temperature: float = 1.0

    def __post_init__(self):
        assert self.divergence.has_temperature or self.temperature == 1


@dataclass(frozen=True)
class BatchTerm:
    """A loss between batches of distributions, which no position has a value of by itself.

    Args:
        loss: From the student's logits, the teacher's, [n, V] each, and the target ids, [n], to a
            scalar with its gradient, and what else there is to log.
        max_rows: Of more positions, so many are drawn.
    """

    name: str
    loss: BatchLoss
    max_rows: int


@dataclass(frozen=True)
class HeadOutput:
    """The loss and what it was made of."""

    loss: Float[Tensor, ""]
    """The weighted sum of all values; the only field with a gradient."""
    values: Float[Tensor, "num_terms n"]
    """Each term at each position, in nats, without its weight; float32 (float64 stays float64)."""
    diagnostics: Float[Tensor, "num_diagnostics n"]
    """Each diagnostic at each position; likewise."""


def weighted_sum(
    weights: Float[Tensor, "num_terms n"], values: Float[Tensor, "num_terms n"]
) -> Float[Tensor, ""]:
    """Over all terms and positions; a weight of 0 leaves its value out."""
    # Not a plain product: a value left out may be inf, and 0 * inf is NaN.
    return torch.where(weights != 0, weights * values, 0).sum()
