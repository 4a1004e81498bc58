"""All terms of an objective, with their gradient, over a block of positions."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from llmkd.losses.scratch import Scratch
from llmkd.losses.signals import SampledLogits, Signals, SparseLogits, TopKLogits
from llmkd.losses.terms import Divergence, Gradient, HeadTerm, Pair, Targets, TeacherRows


@dataclass(frozen=True)
class Rows:
    """What is to be computed at N positions, beside both models' predictions there."""

    target_ids: Targets
    weights: Float[Tensor, "num_terms n"]
    terms: tuple[HeadTerm, ...]
    diagnostics: tuple[HeadTerm, ...]

    def new_outputs(self) -> tuple[Tensor, Tensor]:
        """Room for the values of all terms and of all diagnostics: [K, N] and [D, N]."""
        num_rows = len(self.target_ids)
        return (
            self.weights.new_empty(len(self.terms), num_rows),
            self.weights.new_empty(len(self.diagnostics), num_rows),
        )


def take(
    rows: Rows,
    block: slice,
    student_logits: Float[Tensor, "block vocab"],
    teacher: TeacherRows | None,
    values: Float[Tensor, "num_terms all"],
    diagnostics: Float[Tensor, "num_diagnostics all"],
    *,
    gradient: Float[Tensor, "block vocab"] | None,
    scratch: Scratch,
) -> None:
    """Writes the block's values and diagnostics, and the gradient by the student's logits.

    Args:
        rows: All N positions.
        block: Which of them.
        student_logits: Of the block, in float32 or float64.
        teacher: Of the block.
        values: Written at the block's positions.
        diagnostics: Likewise.
        gradient: Gets that of the weighted sum of all terms; zero at a position that none gives
            weight. It may be the student's logits themselves. None where nobody needs it.
        scratch: For what is made on the way.
    """
    formulas = _Formulas(student_logits, teacher, rows.target_ids[block], scratch)
    slopes = []
    for term, row in zip(rows.terms, values, strict=True):
        row[block], slope = formulas.of(term)
        slopes.append(slope)
    for term, row in zip(rows.diagnostics, diagnostics, strict=True):
        row[block], _ = formulas.of(term)
    if gradient is None:
        return
    weights = rows.weights[:, block, None]
    scales = [weight / term.temperature for weight, term in zip(weights, rows.terms, strict=True)]
    slopes[0](gradient).mul_(scales[0])
    room = scratch.like(gradient) if slopes[1:] else gradient
    for slope, scale in zip(slopes[1:], scales[1:], strict=True):
        gradient.addcmul_(slope(room), scale)
    is_left_out = weights.eq(0).all(0)
    if is_left_out.device.type != "cpu" or is_left_out.any():
        # Zero times a derivative that is not finite is NaN; left out means 0.
        gradient.masked_fill_(is_left_out, 0)


class _Formulas:
    """The values of a block's terms; terms of one temperature share their distributions."""

    def __init__(
        self,
        student_logits: Tensor,
        teacher: TeacherRows | None,
        target_ids: Tensor,
        scratch: Scratch,
    ):
        self.student_logits, self.teacher, self.target_ids = student_logits, teacher, target_ids
        self.scratch = scratch
        self.pairs: dict[float, Pair] = {}
        self.taken: dict[tuple[Divergence, float], tuple[Tensor, Gradient]] = {}

    def of(self, term: HeadTerm) -> tuple[Tensor, Gradient]:
        key = term.divergence, term.temperature
        if key not in self.taken:
            sparse = None if isinstance(self.teacher, Tensor) else self.teacher
            formula = term.divergence.formula(sparse)
            assert formula is not None, "refused before"
            self.taken[key] = formula(self._pair(term.temperature))
        return self.taken[key]

    def _pair(self, temperature: float) -> Pair:
        if temperature not in self.pairs:
            self.pairs[temperature] = Pair(
                self.student_logits, self.teacher, self.target_ids, temperature, self.scratch
            )
        return self.pairs[temperature]


def refusal(term: HeadTerm, teacher: Signals | None) -> str | None:
    """Why a term cannot be taken of what was stored of a teacher; None where it can."""
    if not isinstance(teacher, SparseLogits):
        return None
    stored = {TopKLogits: "top-k log-probabilities", SampledLogits: "random samples"}[type(teacher)]
    if term.divergence.formula(teacher) is None:
        return (
            f"{term.name} cannot be taken of {stored} of the teacher; take forward_kl, or a "
            "teacher that gives all its logits"
        )
    if term.divergence.is_of_labels or term.temperature == teacher.temperature:
        return None
    return (
        f"{term.name} has temperature {term.temperature}, and the teacher's {stored} were stored at "
        f"{teacher.temperature}, which serves no other; give the term that temperature, or store "
        f"them at {term.temperature}"
    )
