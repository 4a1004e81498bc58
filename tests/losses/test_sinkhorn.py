import math

import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from torch import Tensor

from llmkd.losses.divergences import forward_kl, logprobs
from llmkd.losses.sinkhorn import sinkhorn_divergence, sinkhorn_paper, token_rows

lawful = settings(deadline=None, max_examples=25)
exactly = {"max_iterations": 100_000, "tolerance": 1e-12}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(count: int, features: int, *, seed: int, scale: float = 1.0) -> Tensor:
    return (normal(count, features, seed=seed) * scale).softmax(-1)


def gradient(function, tensor: Tensor) -> Tensor:
    leaf = tensor.clone().requires_grad_()
    (result,) = torch.autograd.grad(function(leaf), leaf)
    return result


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    count, features = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    seed, scale = draw(st.integers(0, 2**31)), draw(st.sampled_from([0.1, 1.0, 3.0]))
    student = rows(count, features, seed=seed, scale=scale)
    return student, rows(count, features, seed=seed + 1, scale=scale)


# Laws.


@lawful
@given(batches())
def test_the_divergence_is_never_negative_is_bounded_and_does_not_tell_the_sides_apart(pair):
    student, teacher = pair
    found = sinkhorn_divergence(student, teacher, tolerance=1e-9, max_iterations=20_000)
    swapped = sinkhorn_divergence(teacher, student, tolerance=1e-9, max_iterations=20_000)
    assert -1e-9 <= found.value <= 2
    torch.testing.assert_close(found.value, swapped.value, rtol=0, atol=1e-8)


@lawful
@given(batches(), st.randoms())
def test_the_order_of_either_sides_rows_does_not_matter(pair, random):
    student, teacher = pair
    order, other = list(range(len(student))), list(range(len(student)))
    random.shuffle(order)
    random.shuffle(other)
    for debiased in (True, False):
        expected = sinkhorn_divergence(student, teacher, debiased=debiased, tolerance=1e-7)
        found = sinkhorn_divergence(
            student[order], teacher[other], debiased=debiased, tolerance=1e-7
        )
        torch.testing.assert_close(found.value, expected.value, rtol=0, atol=1e-7)


@lawful
@given(batches())
def test_a_batch_twice_over_costs_what_it_costs_once(pair):
    student, teacher = pair
    for loss in (sinkhorn_divergence, sinkhorn_paper):
        once, twice = loss(student, teacher), loss(student.repeat(2, 1), teacher.repeat(2, 1))
        torch.testing.assert_close(twice.value, once.value, rtol=0, atol=1e-9)


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_student_whose_rows_are_the_teachers_costs_nothing_and_is_left_alone(epsilon, dtype):
    teacher = rows(12, 6, seed=0, scale=2.0).to(dtype)
    found = sinkhorn_divergence(teacher, teacher, epsilon=epsilon)
    slope = gradient(lambda q: sinkhorn_divergence(q, teacher, epsilon=epsilon).value, teacher)
    rounding = 20 * torch.finfo(dtype).eps * (1 + 2 / epsilon)
    assert abs(found.value) <= rounding
    assert slope.abs().max() <= rounding
    # Without the two terms of its own it is neither.
    assert sinkhorn_divergence(teacher, teacher, epsilon=0.1, debiased=False).value > 0.01


def test_it_is_zero_when_the_students_rows_are_the_teachers_in_another_order():
    """Why a recipe pairs it with a pointwise term, and why one without is refused.

    Transport asks which rows there are, not which example each belongs to. A student that answers
    every example with the distribution of another has a loss of 0 and a gradient of 0: nothing
    would ever tell it. A divergence between the two rows of each example does.
    """
    logits = normal(8, 5, seed=0) * 3
    teacher, wrong = logits.softmax(-1), logits.roll(1, 0)
    found = sinkhorn_divergence(wrong.softmax(-1), teacher)
    slope = gradient(lambda z: sinkhorn_divergence(z.softmax(-1), teacher).value, wrong)
    assert abs(found.value) < 1e-12
    assert slope.abs().max() < 1e-12
    assert forward_kl(wrong, logits).mean() > 1


# Independent references.


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("features", [6, 700], ids=["one_block", "three_blocks_of_columns"])
def test_the_value_is_that_of_pots_solver_on_scipys_distances(features, debiased):
    student, teacher = rows(9, features, seed=0), rows(9, features, seed=1)

    def theirs(q: Tensor, p: Tensor) -> float:
        cost = cdist(q.numpy(), p.numpy(), "cityblock")
        found = ot.solve(cost, reg=0.3, reg_type="KL", max_iter=100_000, tol=1e-13)
        return float(found.value)

    own = (theirs(student, student) + theirs(teacher, teacher)) / 2 if debiased else 0
    ours = sinkhorn_divergence(student, teacher, epsilon=0.3, debiased=debiased, **exactly)
    assert ours.value.item() == pytest.approx(theirs(student, teacher) - own, abs=1e-9)
    assert ours.marginal_error < 1e-11


def test_two_rows_each_by_hand():
    # Student [1, 0] and [0, 1], teacher [1, 0] twice, epsilon 1.
    # OT(Q, P): both columns are alike, so P = 1/4 everywhere: <P, C> = (0 + 2) / 2 = 1, KL = 0.
    # OT(P, P) = 0. OT(Q, Q): C = [[0, 2], [2, 0]], value log(2 / (1 + e^-2)) = 0.5662192 (the value
    # of two symmetric points, see test_transport.py). S = 1 - 0.5662192 / 2 = 0.7168904.
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    found = sinkhorn_divergence(student, teacher, epsilon=1.0, **exactly)
    assert found.value.item() == pytest.approx(0.7168904, abs=1e-7)
    assert found.value.item() == pytest.approx(1 - math.log(2 / (1 + math.exp(-2))) / 2, abs=1e-12)


# Gradients.


@pytest.mark.parametrize("debiased", [True, False])
def test_the_gradient_agrees_with_finite_differences(debiased):
    student, teacher = rows(5, 4, seed=0).requires_grad_(), rows(5, 4, seed=1)

    def value(q: Tensor) -> Tensor:
        return sinkhorn_divergence(q, teacher, epsilon=0.3, debiased=debiased, **exactly).value

    assert torch.autograd.gradcheck(value, student, atol=1e-7)


def test_the_papers_gradient_is_that_of_its_iterations_and_not_the_plan():
    student, teacher = rows(5, 4, seed=0).requires_grad_(), rows(5, 4, seed=1)
    assert torch.autograd.gradcheck(lambda q: sinkhorn_paper(q, teacher, factor=1.0).value, student)


@pytest.mark.parametrize("loss", [sinkhorn_divergence, sinkhorn_paper])
def test_the_teacher_gets_no_gradient(loss):
    student, teacher = rows(5, 4, seed=0).requires_grad_(), rows(5, 4, seed=1).requires_grad_()
    found = loss(student, teacher)
    found.value.backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
    assert not found.marginal_error.requires_grad


def test_descent_brings_the_students_cloud_to_the_teachers():
    teacher, z = rows(6, 4, seed=0, scale=2.0), normal(6, 4, seed=1).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.05)
    values = []
    for _ in range(200):
        optimizer.zero_grad()
        found = sinkhorn_divergence(z.softmax(-1), teacher)
        found.value.backward()
        optimizer.step()
        values.append(found.value.item())
    assert values[0] > 0.3
    assert values[-1] < 0.02


# Edges.


@pytest.mark.parametrize("loss", [sinkhorn_divergence, sinkhorn_paper])
def test_no_rows_give_zero_and_one_row_gives_its_distance(loss):
    nothing = torch.zeros(0, 3, requires_grad=True)
    loss(nothing, torch.zeros(0, 3)).value.backward()
    assert loss(nothing, torch.zeros(0, 3)).value == 0
    assert nothing.grad is not None
    assert nothing.grad.shape == (0, 3)
    # |0.5 - 0.2| + |0.3 - 0.3| + |0.2 - 0.5| = 0.6
    settings = {"factor": 1.0} if loss is sinkhorn_paper else {}
    student = torch.tensor([[0.5, 0.3, 0.2]], requires_grad=True)
    found = loss(student, torch.tensor([[0.2, 0.3, 0.5]]), **settings)
    assert found.value.item() == pytest.approx(0.6, abs=1e-6)
    (slope,) = torch.autograd.grad(found.value, student)
    torch.testing.assert_close(slope, torch.tensor([[1.0, 0.0, -1.0]]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("loss", [sinkhorn_divergence, sinkhorn_paper])
@pytest.mark.parametrize("epsilon", [0.01, 0.1])
def test_rows_as_far_apart_as_can_be_cost_two(loss, epsilon):
    student, teacher = torch.eye(6)[[0, 1, 2]].requires_grad_(), torch.eye(6)[[3, 4, 5]]
    settings = {"factor": 1.0} if loss is sinkhorn_paper else {"debiased": False}
    found = loss(student, teacher, epsilon=epsilon, **settings)
    (slope,) = torch.autograd.grad(found.value, student)
    assert found.value.item() == pytest.approx(2, abs=1e-5)
    assert found.marginal_error < 1e-4
    assert slope.isfinite().all()


@pytest.mark.parametrize("epsilon", [0.01, 0.1])
def test_one_hot_rows_of_unequal_classes_by_hand(epsilon):
    # Class 0 has 3/4 of the student's rows and 1/4 of the teacher's: half of the mass moves by 2, and
    # <P, C> = 1. Between classes P = [[1/4, 1/2], [0, 1/4]] and a x b = [[3, 9], [1, 3]] / 16, so
    # KL = log(4/3) / 2 + log(8/9) / 2 = 0.0849495. For either side's own plan, diagonal,
    # KL = 3/4 log(4/3) + 1/4 log 4 = 0.5623351. S = 1 + epsilon (0.0849495 - 0.5623351), and what
    # crosses against the gradient is below e^(-2 / epsilon).
    student, teacher = torch.eye(2)[[0, 0, 0, 1]].double(), torch.eye(2)[[0, 1, 1, 1]].double()
    settings = {"epsilon": epsilon, "tolerance": 1e-7, "max_iterations": 10_000}
    found = sinkhorn_divergence(student, teacher, **settings)
    assert found.marginal_error <= 1e-7
    assert found.value.item() == pytest.approx(1 - 0.4773856 * epsilon, abs=1e-6)


def test_what_has_not_converged_shows_in_the_marginal_error():
    student, teacher = rows(20, 5, seed=0, scale=3.0), rows(20, 5, seed=1, scale=3.0)
    early = sinkhorn_divergence(student, teacher, max_iterations=1)
    late = sinkhorn_divergence(student, teacher)
    assert early.marginal_error > 0.05
    assert late.marginal_error <= 1e-3
    paper = sinkhorn_paper(student, teacher, num_iterations=1)
    assert paper.marginal_error > 0.05


def test_float32_is_within_rounding_of_float64_and_bfloat16_rows_are_upcast():
    student, teacher = rows(30, 8, seed=0, scale=2.0), rows(30, 8, seed=1, scale=2.0)
    double, single = (
        sinkhorn_divergence(student.to(dtype), teacher.to(dtype), tolerance=1e-4)
        for dtype in (torch.float64, torch.float32)
    )
    assert double.value.dtype == torch.float64
    assert single.value.dtype == torch.float32
    torch.testing.assert_close(single.value.double(), double.value, rtol=0, atol=1e-5)
    half = sinkhorn_divergence(student.bfloat16(), teacher.bfloat16())
    upcast = sinkhorn_divergence(student.bfloat16().float(), teacher.bfloat16().float())
    assert half.value == upcast.value


def test_settings_that_make_no_sense_are_refused():
    row = torch.ones(1, 1)
    with pytest.raises(ValueError, match=r"epsilon is -0\.1; it must be greater than 0"):
        sinkhorn_divergence(row, row, epsilon=-0.1)
    with pytest.raises(ValueError, match="num_iterations is 0; it must be greater than 0"):
        sinkhorn_paper(row, row, num_iterations=0)
    with pytest.raises(ValueError, match="top_k is 0; it must be greater than 0"):
        token_rows(row.log(), row.log(), torch.tensor([0]), top_k=0)


# The paper's mode.


def released_loss(
    student: Tensor, teacher: Tensor, *, epsilon: float, num_iterations: int
) -> Tensor:
    """SinKD's loss.py, step by step: marginals of 1, by division, the columns last."""
    cost = torch.cdist(student, teacher, p=1)
    plan = torch.exp(-cost / epsilon)
    for _ in range(num_iterations):
        plan = plan / plan.sum(1, keepdim=True)
        plan = plan / plan.sum(0, keepdim=True)
    return 0.001 * (plan * cost).sum()


def test_the_papers_loss_is_the_released_one_per_row():
    # Far from converged after 20 iterations, so that their number and order show.
    student, teacher = rows(12, 5, seed=0, scale=3.0), rows(12, 5, seed=1, scale=3.0)
    found = sinkhorn_paper(student, teacher)
    assert found.marginal_error > 0.01
    released = released_loss(student, teacher, epsilon=0.1, num_iterations=20)
    torch.testing.assert_close(found.value, released / 12)
    slope = gradient(lambda q: sinkhorn_paper(q, teacher).value, student)
    expected = gradient(
        lambda q: released_loss(q, teacher, epsilon=0.1, num_iterations=20) / 12, student
    )
    torch.testing.assert_close(slope, expected)


def test_the_released_loss_grows_with_the_batch_and_ours_does_not():
    student, teacher = rows(7, 5, seed=0), rows(7, 5, seed=1)
    twice = student.repeat(2, 1), teacher.repeat(2, 1)
    released = [
        released_loss(q, p, epsilon=0.1, num_iterations=20) for q, p in ((student, teacher), twice)
    ]
    torch.testing.assert_close(released[1], 2 * released[0])
    ours = sinkhorn_paper(student, teacher).value, sinkhorn_paper(*twice).value
    torch.testing.assert_close(ours[1], ours[0])


def test_the_released_loss_has_no_plan_in_float16_and_ours_has():
    student, teacher = torch.eye(4)[[0, 1]].half(), torch.eye(4)[[2, 3]].half()
    assert torch.exp(torch.tensor(-2 / 0.1).half()) == 0
    assert sinkhorn_paper(student, teacher).value.item() == pytest.approx(0.002, rel=1e-5)


# Rows of a language model.


def token_batch(
    count: int = 6, vocab: int = 40, scale: float = 2.0
) -> tuple[Tensor, Tensor, Tensor]:
    student = logprobs(normal(count, vocab, seed=0) * scale)
    teacher = logprobs(normal(count, vocab, seed=1) * scale)
    target_ids = torch.randint(vocab, (count,), generator=torch.Generator().manual_seed(2))
    return student, teacher, target_ids


def test_token_rows_by_hand():
    # Top 1 of the teacher: 0 and 3. Labels: 3, and none. Columns 0, 3 and the tail.
    student = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])
    teacher = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4]])
    target_ids = torch.tensor([3, -100])
    found = token_rows(student.log(), teacher.log(), target_ids, top_k=1)
    torch.testing.assert_close(found[0], torch.tensor([[0.1, 0.4, 0.5], [0.25, 0.25, 0.5]]))
    torch.testing.assert_close(found[1], torch.tensor([[0.7, 0.1, 0.2], [0.1, 0.4, 0.5]]))
    # A label that is among nobody's top tokens gets a column of its own.
    labelled = token_rows(student.log(), teacher.log(), torch.tensor([1, -100]), top_k=1)
    torch.testing.assert_close(labelled[0], torch.tensor([[0.1, 0.2, 0.4, 0.3], [0.25] * 4]))


@pytest.mark.parametrize("top_k", [1, 3, 16])
def test_token_distances_are_lower_bounds_that_miss_at_most_the_smaller_tail_twice(top_k):
    student, teacher, target_ids = token_batch()
    q, p = token_rows(student, teacher, target_ids, top_k=top_k)
    full, short = torch.cdist(student.exp(), teacher.exp(), p=1), torch.cdist(q, p, p=1)
    assert (short <= full + 1e-12).all()
    assert (full - short <= 2 * torch.minimum(q[:, -1:], p[:, -1:].T) + 1e-12).all()
    dense = sinkhorn_divergence(student.exp(), teacher.exp(), debiased=False, **exactly)
    sparse = sinkhorn_divergence(q, p, debiased=False, **exactly)
    assert sparse.value <= dense.value + 1e-12


def test_with_every_token_the_distances_are_those_over_the_vocabulary():
    student, teacher, target_ids = token_batch()
    q, p = token_rows(student, teacher, target_ids, top_k=1000)
    assert q.shape == (6, 41)
    torch.testing.assert_close(q[:, :-1], student.exp())
    assert q[:, -1].abs().max() < 1e-15
    dense = sinkhorn_divergence(student.exp(), teacher.exp())
    torch.testing.assert_close(sinkhorn_divergence(q, p).value, dense.value, rtol=0, atol=1e-9)


def test_the_gradient_of_token_rows_agrees_with_finite_differences_of_the_logits():
    _, teacher, target_ids = token_batch()
    z = (normal(6, 40, seed=0) * 2).requires_grad_()

    def student_rows(z: Tensor) -> Tensor:
        return token_rows(logprobs(z), teacher, target_ids, top_k=2)[0]

    assert torch.autograd.gradcheck(student_rows, z)


def test_the_gradient_is_that_of_a_tail_that_is_summed_up():
    student_logits, (_, teacher, target_ids) = normal(6, 40, seed=0) * 2, token_batch()
    picked = torch.cat([teacher.topk(2).indices.flatten(), target_ids]).unique()
    others = torch.tensor([v for v in range(40) if v not in picked.tolist()])
    weights = normal(6, seed=5)

    def ours(z: Tensor) -> Tensor:
        return token_rows(logprobs(z), teacher, target_ids, top_k=2)[0][:, -1] @ weights

    def summed(z: Tensor) -> Tensor:
        return z.softmax(-1)[:, others].sum(1) @ weights

    torch.testing.assert_close(gradient(ours, student_logits), gradient(summed, student_logits))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tail_of_zero_is_neither_negative_nor_nan(dtype):
    # All mass on few tokens, and tokens that both rule out: nothing is left for the tail.
    z = torch.full((64, 50), -torch.inf, dtype=dtype)
    z[:, :7] = normal(64, 7).to(dtype)
    z.requires_grad_()
    q, p = token_rows(logprobs(z), logprobs(z), torch.zeros(64, dtype=torch.long), top_k=7)
    value = sinkhorn_divergence(q, p.roll(1, 0) * 0.9 + 0.1 / p.shape[1]).value
    (slope,) = torch.autograd.grad(value, z)
    assert (q >= 0).all()
    assert q[:, -1].max() <= 4 * torch.finfo(dtype).eps
    assert slope.isfinite().all()
    assert (slope[:, 7:] == 0).all()


def test_the_teachers_tokens_get_no_gradient_and_float32_rows_sum_to_one():
    student, teacher, target_ids = token_batch(count=100, vocab=2000)
    teacher.requires_grad_()
    q, p = token_rows(student.float(), teacher.float(), target_ids, top_k=16)
    assert not p.requires_grad
    assert q.dtype == torch.float32
    assert q.shape[1] <= 100 * 17 + 1
    for found in (q, p):
        torch.testing.assert_close(found.sum(1), torch.ones(100), rtol=0, atol=1e-6)


def test_labels_alone_that_are_all_ignored_add_no_column():
    student, teacher, _ = token_batch()
    nobody = torch.full((6,), -100)
    q, _ = token_rows(student, teacher, nobody, top_k=1)
    assert q.shape[1] == len(teacher.argmax(1).unique()) + 1
