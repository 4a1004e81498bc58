import math

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmkd.losses.transport import Problem, sinkhorn

lawful = settings(deadline=None, max_examples=30)
exactly = {"max_iterations": 100_000, "tolerance": 1e-13}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(rows: int = 5, columns: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    cost = normal(rows, columns).abs()
    return cost, normal(rows, seed=1).softmax(0), normal(columns, seed=2).softmax(0)


# Independent references.


@pytest.mark.parametrize("epsilon", [0.05, 0.1, 1.0])
def test_the_plan_is_that_of_pot(epsilon):
    cost, a, b = problem()
    solved = sinkhorn(cost, epsilon=epsilon, row_weights=a, column_weights=b, **exactly)
    theirs = ot.bregman.sinkhorn_log(
        a.numpy(), b.numpy(), cost.numpy(), epsilon, numItermax=100_000, stopThr=1e-14
    )
    assert solved.is_converged
    torch.testing.assert_close(solved.plan, torch.from_numpy(theirs), rtol=0, atol=1e-9)


def test_the_value_is_pots_which_leaves_the_weights_own_entropy_out():
    # POT's regulariser is sum P log P; ours is KL(P || a x b), larger by H(a) + H(b) in units of
    # epsilon: sum P log P = KL(P || a x b) + sum a log a + sum b log b.
    cost, a, b = problem()
    epsilon = 0.3
    ours = sinkhorn(cost, epsilon=epsilon, row_weights=a, column_weights=b, **exactly)
    theirs = ot.solve(
        cost.numpy(), a.numpy(), b.numpy(), reg=epsilon, reg_type="entropy", max_iter=100_000,
        tol=1e-14,
    )  # fmt: skip
    plan = theirs.plan
    negative_entropy = float((plan * np.log(plan)).sum())
    of_weights = float((a * a.log()).sum() + (b * b.log()).sum())
    expected = float((plan * cost.numpy()).sum()) + epsilon * (negative_entropy - of_weights)
    assert ours.value.item() == pytest.approx(expected, abs=1e-9)
    # And POT's own total in the same convention.
    as_kl = ot.solve(
        cost.numpy(), a.numpy(), b.numpy(), reg=epsilon, reg_type="KL", max_iter=100_000, tol=1e-14
    )
    assert ours.value.item() == pytest.approx(float(as_kl.value), abs=1e-9)


def test_with_little_entropy_the_value_is_that_of_exact_transport():
    # <P, C> is above the optimum by at most epsilon (H(a) + H(b)), about 0.003 here, and the value is
    # above it by KL(P || a x b) <= min(H(a), H(b)) at most, 0.0017.
    cost, a, b = problem()
    exact = float(ot.emd2(a.numpy(), b.numpy(), cost.numpy()))
    solved = sinkhorn(cost, epsilon=0.001, row_weights=a, column_weights=b, max_iterations=100_000)
    assert solved.is_converged
    assert exact <= solved.value.item() + 1e-5
    assert solved.value.item() == pytest.approx(exact, abs=2e-3)


def test_two_points_by_hand():
    # C = [[0, 1], [1, 0]], uniform weights, epsilon 1/2. By symmetry P = [[x, y], [y, x]] with
    # x + y = 1/2 and x / y = exp(1 / epsilon) = e^2, so y = 1 / (2 (1 + e^2)) = 0.0596015 and
    # x = 0.4403985. <P, C> = 2 y = 0.1192029. KL = 2 x log 4x + 2 y log 4y = 0.3278131.
    # Value: 0.1192029 + 0.3278131 / 2 = 0.2831095, which is epsilon log(2 / (1 + e^-2)).
    cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    solved = sinkhorn(cost, epsilon=0.5, **exactly)
    x, y = 0.4403985389889, 0.0596014610111
    torch.testing.assert_close(solved.plan, torch.tensor([[x, y], [y, x]], dtype=torch.float64))
    assert solved.value.item() == pytest.approx(0.2831095, abs=1e-7)
    assert solved.value.item() == pytest.approx(0.5 * math.log(2 / (1 + math.exp(-2))), abs=1e-12)


# Gradients.


def test_the_gradient_in_the_cost_is_the_plan_and_agrees_with_finite_differences():
    cost, a, b = problem()
    cost.requires_grad_()

    def value(c: Tensor) -> Tensor:
        return sinkhorn(c, epsilon=0.2, row_weights=a, column_weights=b, **exactly).value

    solved = sinkhorn(cost, epsilon=0.2, row_weights=a, column_weights=b, **exactly)
    (gradient,) = torch.autograd.grad(solved.value, cost)
    torch.testing.assert_close(gradient, solved.plan, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(value, cost, atol=1e-7)
    assert not solved.plan.requires_grad
    assert not solved.marginal_error.requires_grad


def test_gradients_in_the_weights_agree_with_finite_differences():
    # Through a softmax, since the weights can only move with their sum held.
    cost, _, _ = problem()
    z_a, z_b = normal(5, seed=3).requires_grad_(), normal(7, seed=4).requires_grad_()

    def value(z_a: Tensor, z_b: Tensor) -> Tensor:
        weights = {"row_weights": z_a.softmax(0), "column_weights": z_b.softmax(0)}
        return sinkhorn(cost, epsilon=0.2, **weights, **exactly).value

    assert torch.autograd.gradcheck(value, (z_a, z_b), atol=1e-7)


# Laws.


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, float, Tensor, Tensor]:
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    seed, epsilon = draw(st.integers(0, 2**31)), draw(st.sampled_from([0.1, 0.5, 3.0]))
    weights = normal(rows, seed=seed).softmax(0), normal(columns, seed=seed + 1).softmax(0)
    return normal(rows, columns, seed=seed + 2).abs(), epsilon, *weights


@lawful
@given(problems())
def test_the_value_is_cost_plus_epsilon_times_divergence_and_lies_between_exact_and_independent(
    drawn,
):
    cost, epsilon, a, b = drawn
    solved = sinkhorn(
        cost,
        epsilon=epsilon,
        row_weights=a,
        column_weights=b,
        tolerance=1e-9,
        max_iterations=50_000,
    )
    independent = a[:, None] * b
    divergence = (solved.plan * (solved.plan / independent).log()).sum()
    primal = (solved.plan * cost).sum() + epsilon * divergence
    torch.testing.assert_close(solved.value, primal, rtol=0, atol=1e-7)
    exact = float(ot.emd2(a.numpy() / a.sum().item(), b.numpy() / b.sum().item(), cost.numpy()))
    assert exact - 1e-7 <= solved.value.item() <= (independent * cost).sum().item() + 1e-9


@lawful
@given(problems(), st.floats(-3, 3))
def test_a_constant_added_to_the_cost_is_added_to_the_value_and_moves_no_mass(drawn, constant):
    cost, epsilon, a, b = drawn
    settings = {"epsilon": epsilon, "row_weights": a, "column_weights": b, "tolerance": 1e-9}
    plain, shifted = sinkhorn(cost, **settings), sinkhorn(cost + constant, **settings)
    torch.testing.assert_close(shifted.value, plain.value + constant, rtol=0, atol=1e-9)
    torch.testing.assert_close(shifted.plan, plain.plan, rtol=0, atol=1e-9)


# Edges.


def test_rows_and_columns_of_weight_zero_are_left_out():
    cost, a, b = problem()
    a, b = a.clone(), b.clone()
    a[2] = b[0] = 0
    a, b = (a / a.sum()).requires_grad_(), b / b.sum()
    solved = sinkhorn(cost, epsilon=0.2, row_weights=a, column_weights=b, **exactly)
    rows, columns = [0, 1, 3, 4], [1, 2, 3, 4, 5, 6]
    smaller = sinkhorn(
        cost[rows][:, columns],
        epsilon=0.2,
        row_weights=a[rows],
        column_weights=b[columns],
        **exactly,
    )
    assert solved.is_converged
    torch.testing.assert_close(solved.value, smaller.value)
    torch.testing.assert_close(solved.plan[rows][:, columns], smaller.plan)
    assert solved.plan.shape == cost.shape
    assert not solved.plan[2].any()
    assert not solved.plan[:, 0].any()
    (gradient,) = torch.autograd.grad(solved.value, a)
    assert gradient.isfinite().all()
    assert gradient[2] == 0


def test_what_has_not_converged_says_so():
    cost, a, b = problem()
    settings = {"epsilon": 0.05, "row_weights": a, "column_weights": b}
    solved = sinkhorn(cost.requires_grad_(), **settings, max_iterations=1, tolerance=1e-6)
    assert not solved.is_converged
    assert solved.num_iterations == 1
    measured = (solved.plan.sum(1) - a).abs().sum() + (solved.plan.sum(0) - b).abs().sum()
    assert measured > 0.01
    torch.testing.assert_close(solved.marginal_error, measured)
    torch.testing.assert_close(solved.plan.sum(0), b)  # The last update was the columns'.
    (gradient,) = torch.autograd.grad(solved.value, cost)
    torch.testing.assert_close(gradient, solved.plan)


def test_a_converged_plan_has_its_marginals_within_the_tolerance_and_stops_there():
    cost, a, b = problem()
    settings = {"epsilon": 0.05, "row_weights": a, "column_weights": b}
    loose, tight = (sinkhorn(cost, **settings, tolerance=t) for t in (1e-2, 1e-6))
    assert loose.is_converged
    assert tight.is_converged
    assert 1e-6 < loose.marginal_error <= 1e-2
    assert tight.marginal_error <= 1e-6
    assert loose.num_iterations < tight.num_iterations < 1000


def test_a_cost_that_is_nan_never_counts_as_converged():
    solved = sinkhorn(torch.full((2, 2), torch.nan), epsilon=0.1, max_iterations=3)
    assert not solved.is_converged


def test_float32_is_within_rounding_of_float64_and_bfloat16_is_upcast():
    cost, a, b = problem()
    weights = {"row_weights": a, "column_weights": b}
    double = sinkhorn(cost, epsilon=0.1, **weights, tolerance=1e-5)
    single = sinkhorn(cost.float(), epsilon=0.1, **weights, tolerance=1e-5)
    assert double.value.dtype == torch.float64
    assert single.value.dtype == single.plan.dtype == torch.float32
    torch.testing.assert_close(single.value.double(), double.value, rtol=0, atol=1e-5)
    torch.testing.assert_close(single.plan.double(), double.plan, rtol=0, atol=1e-5)
    half = sinkhorn(cost.bfloat16(), epsilon=0.1)
    upcast = sinkhorn(cost.bfloat16().float(), epsilon=0.1)
    assert half.value.dtype == torch.float32
    assert half.value == upcast.value


def test_one_point_costs_what_it_costs_to_move_it():
    cost = torch.tensor([[1.7]], requires_grad=True)
    solved = sinkhorn(cost, epsilon=0.1)
    solved.value.backward()
    assert solved.value.item() == pytest.approx(1.7, abs=1e-6)
    assert cost.grad is not None
    assert cost.grad.item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 0.0}, "epsilon is 0.0; it must be greater than 0"),
        ({"max_iterations": 0}, "max_iterations is 0; it must be greater than 0"),
        ({"tolerance": float("nan")}, "tolerance is nan; it must be greater than 0"),
        ({"row_weights": torch.tensor([0.5, 0.4])}, "weights of dimension 0 sum to 0.9"),
        ({"column_weights": torch.tensor([1.5, -0.5])}, "weights of dimension 1 sum to 1, or one"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        sinkhorn(torch.ones(2, 2), **{"epsilon": 0.1, **settings})


def test_a_cost_without_rows_is_refused():
    with pytest.raises(ValueError, match="weights of dimension 0 sum to 0"):
        sinkhorn(torch.ones(0, 2), epsilon=0.1)


def test_the_marginal_error_counts_rows_and_columns_by_hand():
    # Rows sum to 0.6 and 0.4 where 0.5 is wanted: 0.2. Columns to 0.7 and 0.3: 0.4.
    half = torch.full((2,), 0.5)
    plan = torch.tensor([[0.5, 0.1], [0.2, 0.2]])
    found = Problem(torch.zeros(2, 2), half, half, 0.1).marginal_error(plan)
    assert found.item() == pytest.approx(0.6, abs=1e-6)


def test_no_iteration_is_differentiated_through():
    cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]], requires_grad=True)
    symmetric = Problem(cost, torch.tensor([0.4, 0.6]), torch.tensor([0.4, 0.6]), 0.1)
    assert not symmetric.average(3).u.requires_grad
    assert not symmetric.alternate(3, 1e-9).v.requires_grad


def test_what_stops_before_its_last_iteration_has_converged_rounding_included():
    cost, a, b = (tensor.float() for tensor in problem(30, 40))
    settings = {"epsilon": 0.05, "row_weights": a, "column_weights": b}
    for num_iterations in range(2, 40):
        early = sinkhorn(cost, **settings, max_iterations=num_iterations, tolerance=1e-12)
        # A tolerance that the rows' error alone would meet, and rows and columns together do not.
        tolerance = early.marginal_error.item() * (1 - 1e-5)
        assert sinkhorn(cost, **settings, tolerance=tolerance).is_converged


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 1.0])
def test_a_symmetric_problem_is_down_to_rounding_in_a_few_dozen_iterations(epsilon):
    rows = (normal(60, 5) * 2).softmax(-1).float()
    weights = torch.full((60,), 1 / 60)
    symmetric = Problem(torch.cdist(rows, rows, p=1), weights, weights, epsilon)
    potentials = symmetric.average(1000)
    assert potentials.num_iterations < 40
    assert symmetric.solved(potentials, 1.0).marginal_error < 1e-5


def test_default_weights_are_as_exact_as_the_cost():
    cost = problem(3, 5)[0]
    uniform = [torch.full((n,), 1 / n, dtype=torch.float64) for n in cost.shape]
    ours = sinkhorn(cost, epsilon=0.5, tolerance=1e-12)
    theirs = sinkhorn(
        cost, epsilon=0.5, row_weights=uniform[0], column_weights=uniform[1], tolerance=1e-12
    )
    assert ours.is_converged
    assert torch.equal(ours.plan, theirs.plan)
