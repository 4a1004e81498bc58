r"""Entropic optimal transport between the student's and the teacher's rows of probabilities.

A batch of distributions is a cloud of points, and moving the student's cloud onto the teacher's has
a price. One convention holds everywhere here, for marginals a and b that sum to 1:

.. math::
    P_{ij} &= a_i b_j \exp((f_i + g_j - C_{ij}) / \varepsilon) \\
    OT_\varepsilon &= \langle P, C \rangle + \varepsilon\, KL(P \| a \otimes b)
        = \langle f, a \rangle + \langle g, b \rangle + \varepsilon (1 - \textstyle\sum P)

The two forms of the value are equal once P has the marginals a and b. The second is the one computed:
it is stationary in f and g, so potentials that are a little off move it only to second order, and
with f and g held fixed its gradient is the exact one (the envelope theorem): P with respect to C.

Everything runs in the log domain, in float32 (float64 stays float64).
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from llmkd.losses.divergences.distributions import upcast

Scalar = Float[Tensor, ""]

MAX_ITERATIONS = 1000
TOLERANCE = 1e-3


@dataclass(frozen=True)
class TransportPlan:
    """A solved problem.

    Args:
        plan: P, at least 0, summing to 1; detached.
        value: As above; gradients flow to the cost and to the weights.
        marginal_error: L1, sum_i |P1 - a|_i + sum_j |P^T 1 - b|_j, in [0, 2]; detached.
        num_iterations: Pairs of updates that were made.
        is_converged: The marginal error reached the tolerance. Where it has not, value and plan are
            those of the last iteration, and the gradient is P all the same.
    """

    plan: Float[Tensor, "rows columns"]
    value: Scalar
    marginal_error: Scalar
    num_iterations: int
    is_converged: bool


def sinkhorn(
    cost: Float[Tensor, "rows columns"],
    *,
    epsilon: float,
    row_weights: Float[Tensor, " rows"] | None = None,
    column_weights: Float[Tensor, " columns"] | None = None,
    max_iterations: int = MAX_ITERATIONS,
    tolerance: float = TOLERANCE,
) -> TransportPlan:
    r"""Entropic optimal transport, by Sinkhorn's iteration in the log domain.

    .. math:: f_i = -\varepsilon \log \sum_j b_j \exp((g_j - C_{ij}) / \varepsilon)

    and likewise g, in turn. The last update is that of g, so the columns' marginals are exact.

    Args:
        cost: C, what it takes to move row i onto column j; gradients flow through it.
        epsilon: Weight of the entropy, in units of the cost; greater than 0.
        row_weights: a, at least 0, summing to 1; None for 1/n. Gradients flow through it, along
            changes that keep the sum. A row of weight 0 is left out: 0 in the plan, no gradient.
        column_weights: b, likewise.
        max_iterations: Pairs of updates after which the plan is taken as it is.
        tolerance: L1 marginal error at which to stop. In float32 rounding alone makes about
            1e-7 max(C) / epsilon.

    Returns:
        The plan with its value. Non-convergence is no error: look at `is_converged`.

    Raises:
        ValueError: epsilon, max_iterations or tolerance is not positive, or weights are no
            distribution.

    References:
        Cuturi 2013, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport",
        https://arxiv.org/abs/1306.0895. Peyré and Cuturi 2019, "Computational Optimal Transport",
        https://arxiv.org/abs/1803.00567, section 4.4 (log domain), proposition 9.2 (gradients).

    Example:
        >>> solved = sinkhorn(torch.tensor([[0.0, 2.0], [2.0, 0.0]]), epsilon=0.1)
        >>> solved.plan.round(decimals=4)
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]])
        >>> solved.is_converged
        True
    """
    check_positive(epsilon=epsilon, max_iterations=max_iterations, tolerance=tolerance)
    cost = upcast(cost)
    a, b = _weights(row_weights, cost, 0), _weights(column_weights, cost, 1)
    rows, columns = a.nonzero().flatten(), b.nonzero().flatten()
    problem = Problem(
        cost.index_select(0, rows).index_select(1, columns), a[rows], b[columns], epsilon
    )
    solved = problem.solved(problem.alternate(max_iterations, tolerance), tolerance)
    plan = torch.zeros_like(cost)
    plan[rows[:, None], columns] = solved.plan
    return replace(solved, plan=plan)


class Potentials(NamedTuple):
    """u = f / epsilon of the rows and v = g / epsilon of the columns."""

    u: Tensor
    v: Tensor
    num_iterations: int


class Problem:
    """A cost between points of positive weight; P = exp(log_kernel + u + v)."""

    def __init__(self, cost: Tensor, a: Tensor, b: Tensor, epsilon: float):
        self.cost, self.a, self.b, self.epsilon = cost, a, b, epsilon
        self.log_kernel = a.log()[:, None] + b.log() - cost / epsilon

    def row_update(self, v: Tensor) -> Tensor:
        """The u that gives the plan its rows' marginals."""
        return self.a.log() - torch.logsumexp(self.log_kernel + v, 1)

    def column_update(self, u: Tensor) -> Tensor:
        """The v that gives the plan its columns' marginals."""
        return self.b.log() - torch.logsumexp(self.log_kernel + u[:, None], 0)

    def row_error(self, u: Tensor, next_u: Tensor) -> Tensor:
        """The L1 error of the rows' marginals at u, from the update that would mend it."""
        return self.a @ (u - next_u).expm1().abs()

    @torch.no_grad()
    def alternate(
        self, max_iterations: int, tolerance: float, start: Tensor | None = None
    ) -> Potentials:
        """Updates rows and columns in turn, from potentials `start` of the columns."""
        u = v = torch.zeros_like(self.b) if start is None else start
        next_u = self.row_update(v)
        for num_iterations in range(1, max_iterations + 1):
            u = next_u
            v = self.column_update(u)
            next_u = self.row_update(v)
            # The other half of the tolerance is for the rounding of the columns' marginals.
            if self.row_error(u, next_u) <= tolerance / 2:
                return Potentials(u, v, num_iterations)
        return Potentials(u, v, max_iterations)

    @torch.no_grad()
    def average(self, max_iterations: int) -> Potentials:
        """The one potential of a symmetric problem, averaged with its update down to rounding."""
        rounding = 16 * torch.finfo(self.cost.dtype).eps
        u = torch.zeros_like(self.a)
        for num_iterations in range(1, max_iterations + 1):
            next_u = self.row_update(u)
            if self.row_error(u, next_u) <= rounding:
                return Potentials(u, u, num_iterations)
            u = (u + next_u) / 2
        return Potentials(u, u, max_iterations)

    def plan(self, u: Tensor, v: Tensor) -> Tensor:
        """P, with gradients to cost and weights, and to u and v where they have any."""
        return (self.log_kernel + u[:, None] + v).exp()

    @torch.no_grad()
    def marginal_error(self, plan: Tensor) -> Tensor:
        """L1, over rows and columns."""
        return (plan.sum(1) - self.a).abs().sum() + (plan.sum(0) - self.b).abs().sum()

    def solved(self, potentials: Potentials, tolerance: float) -> TransportPlan:
        """The plan at these potentials; the gradient takes them as constants (envelope theorem)."""
        u, v, num_iterations = potentials
        plan = self.plan(u, v)
        value = self.epsilon * (u @ self.a + v @ self.b + 1 - plan.sum())
        error = self.marginal_error(plan)
        return TransportPlan(plan.detach(), value, error, num_iterations, bool(error <= tolerance))


def _weights(weights: Tensor | None, cost: Tensor, dim: int) -> Tensor:
    size = cost.shape[dim]
    weights = cost.new_full((size,), 1 / max(size, 1)) if weights is None else weights
    total = weights.detach().sum().item()
    if (weights < 0).any() or not abs(total - 1) < 1e-4:
        raise ValueError(
            f"the weights of dimension {dim} sum to {total:.6g}, or one is below 0; they must be "
            "at least 0 and sum to 1"
        )
    return weights.to(cost)


def check_positive(**settings: int | float) -> None:
    """Raises a ValueError that names the first setting that is not above 0."""
    for name, value in settings.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; it must be greater than 0")
