"""Sinkhorn losses: a batch of the student's distributions against a batch of the teacher's.

For a classifier the rows are its examples' class probabilities. For a language model they are the
trained tokens' next-token probabilities, over the few columns that `token_rows` picks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from llmkd.losses.divergences import IGNORED_ID, logprobs
from llmkd.losses.divergences.distributions import upcast
from llmkd.losses.transport import (
    MAX_ITERATIONS,
    TOLERANCE,
    Problem,
    Scalar,
    check_positive,
)

Rows = Float[Tensor, "rows features"]

PAPER_TEMPERATURE = 2.0
PAPER_FACTOR = 0.001
_BLOCK = 256


@dataclass(frozen=True)
class SinkhornValue:
    """A loss with how far its plans are from what they should be.

    Args:
        value: The loss; gradients flow to the student's rows.
        marginal_error: The largest L1 marginal error of the problems that were solved; detached.
    """

    value: Scalar
    marginal_error: Scalar


def sinkhorn_divergence(
    student_rows: Rows,
    teacher_rows: Rows,
    *,
    epsilon: float = 0.1,
    max_iterations: int = MAX_ITERATIONS,
    tolerance: float = TOLERANCE,
    debiased: bool = True,
) -> SinkhornValue:
    r"""The price of moving the student's rows onto the teacher's, whichever row goes where.

    For a batch whose distributions should have the teacher's arrangement as a whole. It is 0 when the
    student's rows are the teacher's in another order, so a recipe pairs it with a pointwise term.

    .. math::
        S = OT_\varepsilon(Q, P) - \tfrac{1}{2} (OT_\varepsilon(Q, Q) + OT_\varepsilon(P, P)),
        \quad C_{ij} = \|Q_i - P_j\|_1

    with weights 1/n. The cost is an L1 distance: like |x|, its gradient does not fade as rows meet,
    and is 0 where they are equal.

    The problem of Q with Q has one potential for both sides, found by averaging it with its update:
    that halves its error each time, so it is taken down to rounding. The problem of Q with P starts
    from the potential of P with P, which solves it where Q = P: hence value and gradient are 0 there
    up to rounding.

    Args:
        student_rows: Q, probabilities, each row summing to 1; gradients flow through it.
        teacher_rows: P, as many; detached here.
        epsilon: Weight of the entropy, in units of the cost, which is in [0, 2].
        max_iterations: As in `sinkhorn`.
        tolerance: As in `sinkhorn`.
        debiased: False gives the first term alone, which is not 0 at Q = P, nor smallest there.

    Returns:
        In [0, 2] up to the tolerance, in float32 (float64 stays float64). No rows give 0.

    Raises:
        ValueError: As in `sinkhorn`.

    References:
        Cui et al. 2024, "Sinkhorn Distance Minimization for Knowledge Distillation",
        https://arxiv.org/abs/2402.17110 (rows of a batch as points, L1 cost). Feydy et al. 2019,
        "Interpolating between Optimal Transport and MMD using Sinkhorn Divergences",
        https://arxiv.org/abs/1810.08278, equation 3 (debiasing), section 3.1 (symmetric update).

    Example:
        >>> q = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> round(sinkhorn_divergence(q, q.flip(0)).value.item(), 5)
        0.0
    """
    check_positive(epsilon=epsilon, max_iterations=max_iterations, tolerance=tolerance)
    q, p = upcast(student_rows), upcast(teacher_rows).detach()
    if not len(q):
        return SinkhornValue(q.sum(), q.new_zeros(()))
    between = _uniform(_distances(q, p), epsilon)
    if not debiased:
        solved = between.solved(between.alternate(max_iterations, tolerance), tolerance)
        return SinkhornValue(solved.value, solved.marginal_error)
    student, teacher = (_uniform(_own_distances(rows), epsilon) for rows in (q, p))
    of_student, of_teacher = student.average(max_iterations), teacher.average(max_iterations)
    of_both = between.alternate(max_iterations, tolerance, start=of_teacher.v)
    plans = [
        between.solved(of_both, tolerance),
        student.solved(of_student, tolerance),
        teacher.solved(of_teacher, tolerance),
    ]
    value = plans[0].value - (plans[1].value + plans[2].value) / 2
    return SinkhornValue(value, torch.stack([plan.marginal_error for plan in plans]).amax())


def sinkhorn_paper(
    student_rows: Rows,
    teacher_rows: Rows,
    *,
    epsilon: float = 0.1,
    num_iterations: int = 20,
    factor: float = PAPER_FACTOR,
) -> SinkhornValue:
    r"""SinKD's own loss: the cost of a plan after 20 iterations, without entropy or debiasing.

    For comparisons with the paper; `sinkhorn_divergence` is the better loss.

    .. math:: \mathrm{factor} \cdot \langle P^{(20)}, C \rangle, \quad C_{ij} = \|Q_i - P_j\|_1

    Rows are softmax(z / PAPER_TEMPERATURE). The gradient goes through the iterations, as in the
    released code: P is not the gradient of <P, C>, which has no entropy term, and 20 iterations need
    not converge, so that nothing shorter is the gradient of the value returned. It is above 0 at
    Q = P unless the rows are alike or far apart.

    Departures from the released code, https://github.com/2018cx/SinKD, whose defects these are:

    - Marginals are 1/n. There they are 1, so the loss grows with the batch; the published factor is
      kept, so that the loss here is smaller than there by the batch size.
    - The iteration runs in the log domain and in float32; exp(-2 / 0.1) is 0 in float16.
    - The teacher is detached.
    - The softmax is over the vocabulary. For T0 theirs is over the sequence, and the columns are
      normalised over the batch.
    - Its option `kd+sinkhorn` builds this loss and never applies it; a term of a recipe is applied.
    - Its KL term beside this one lacks tau^2, and for GPT-Neo has its arguments swapped; the terms
      beside this one are llmkd's own.

    Args:
        student_rows: Q, probabilities, each row summing to 1; gradients flow through it.
        teacher_rows: P, as many; detached here.
        epsilon: The paper's lambda.
        num_iterations: Row and column normalisations, each so many times.
        factor: The published 0.001 (BERT), or 0.0008 (T0, GPT-Neo). The weight beta = 0.8 that comes
            on top belongs to the recipe.

    Returns:
        In [0, 2 factor], with the plan's marginal error. No rows give 0.

    Raises:
        ValueError: epsilon or num_iterations is not positive.

    References:
        Cui et al. 2024, "Sinkhorn Distance Minimization for Knowledge Distillation",
        https://arxiv.org/abs/2402.17110, section 3.
    """
    check_positive(epsilon=epsilon, num_iterations=num_iterations)
    q, p = upcast(student_rows), upcast(teacher_rows).detach()
    if not len(q):
        return SinkhornValue(q.sum(), q.new_zeros(()))
    problem = _uniform(_distances(q, p), epsilon)
    u, v = problem.a, torch.zeros_like(problem.b)
    for _ in range(num_iterations):
        u = problem.row_update(v)
        v = problem.column_update(u)
    plan = problem.plan(u, v)
    return SinkhornValue(factor * (plan * problem.cost).sum(), problem.marginal_error(plan))


def sinkhorn_of_logits(
    student_logits: Float[Tensor, "rows vocab"],
    teacher_logits: Float[Tensor, "rows vocab"],
    target_ids: Int[Tensor, " rows"],
    *,
    loss: Callable[[Rows, Rows], SinkhornValue],
    temperature: float,
    max_columns: int,
    top_k: int,
) -> SinkhornValue:
    """A Sinkhorn loss of logits: over whole distributions, or over few columns of large ones.

    Args:
        student_logits: Gradients flow through it.
        teacher_logits: Detached here.
        target_ids: See `token_rows`.
        loss: `sinkhorn_divergence` or `sinkhorn_paper`, with their settings.
        temperature: Divides both logits.
        max_columns: A vocabulary no larger is taken whole.
        top_k: See `token_rows`.
    """
    log_q, log_p = (
        logprobs(logits, temperature=temperature)
        for logits in (student_logits, teacher_logits.detach())
    )
    if log_q.shape[-1] <= max_columns:
        return loss(log_q.exp(), log_p.exp())
    return loss(*token_rows(log_q, log_p, target_ids, top_k=top_k))


def token_rows(
    student_logprobs: Float[Tensor, "rows vocab"],
    teacher_logprobs: Float[Tensor, "rows vocab"],
    target_ids: Int[Tensor, " rows"],
    *,
    top_k: int,
) -> tuple[Rows, Rows]:
    r"""Next-token probabilities over few columns, for a Sinkhorn loss between tokens.

    The columns are the union, over all rows, of the teacher's `top_k` most likely tokens and the
    labels, and after them one that holds the rest of the vocabulary. At most rows * (top_k + 1) + 1
    columns; every row keeps its whole mass.

    Tokens thrown together cannot be told apart. So an L1 distance C over these columns is at most the
    distance D over the vocabulary, and falls short by no more than the smaller tail counted twice;
    a transport cost that is not debiased is a lower bound likewise.

    .. math:: 0 \le D_{ij} - C_{ij} \le 2 \min(Q_i^{tail}, P_j^{tail})

    Args:
        student_logprobs: Normalised, as `divergences.logprobs` gives them; gradients flow through it.
        teacher_logprobs: Likewise, at the same positions; detached here.
        target_ids: Labels; -100 adds no column.
        top_k: Tokens per row, greater than 0; a vocabulary with fewer is taken whole.

    Returns:
        The student's rows and the teacher's, in float32 (float64 stays float64), each row summing
        to 1; the tail is the last column, at least 0.

    Raises:
        ValueError: top_k is not positive.

    Example:
        >>> logprobs = torch.tensor([[0.5, 0.3, 0.2]]).log()
        >>> token_rows(logprobs, logprobs, torch.tensor([2]), top_k=1)[0]
        tensor([[0.5000, 0.2000, 0.3000]])
    """
    check_positive(top_k=top_k)
    teacher_logprobs = teacher_logprobs.detach()
    likely = teacher_logprobs.topk(min(top_k, teacher_logprobs.shape[1])).indices.flatten()
    columns = torch.cat([likely, target_ids[target_ids != IGNORED_ID]]).unique()
    return _with_tail(student_logprobs, columns), _with_tail(teacher_logprobs, columns)


def _with_tail(logprobs: Tensor, columns: Tensor) -> Tensor:
    chosen = upcast(logprobs.index_select(1, columns)).exp()
    # Not the sum of the others, which would take another tensor of the vocabulary's size. A
    # log-softmax before it turns this gradient into that of the sum; where rounding leaves less than
    # nothing, the tail and its gradient are 0.
    tail = (1 - chosen.sum(1, keepdim=True)).clamp(min=0)
    return torch.cat([chosen, tail], 1)


def _uniform(cost: Tensor, epsilon: float) -> Problem:
    weights = cost.new_full((len(cost),), 1 / len(cost))
    return Problem(cost, weights, weights, epsilon)


def _distances(student: Rows, teacher: Rows) -> Tensor:
    # An L1 distance is a sum over columns. In blocks it is faster and rounds less, and on a GPU the
    # backward pass of cdist, which has a buffer of rows x rows x columns, does with a small one.
    blocks = zip(student.split(_BLOCK, 1), teacher.split(_BLOCK, 1), strict=True)
    return torch.stack([torch.cdist(q, p, p=1) for q, p in blocks]).sum(0)


def _own_distances(rows: Rows) -> Tensor:
    # pdist takes each pair once, and gives exactly 0 on the diagonal and the same above and below.
    pairs = torch.stack([F.pdist(block, p=1) for block in rows.split(_BLOCK, 1)]).sum(0)
    above = torch.triu_indices(len(rows), len(rows), 1, device=rows.device)
    upper = rows.new_zeros(len(rows), len(rows)).index_put(tuple(above), pairs)
    return upper + upper.T
