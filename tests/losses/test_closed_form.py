"""Every closed form against the function of the same name and its automatic derivative."""

import pytest
import torch
from torch import Tensor

from llmkd.losses import closed_form as c
from llmkd.losses import divergences as d
from llmkd.losses.dense import divergence_from_logits
from llmkd.losses.signals import DenseLogits
from llmkd.losses.terms import Divergence, HeadTerm

N, V = 7, 19

FUNCTIONS = {
    "cross_entropy": (c.CROSS_ENTROPY, lambda s, t, ids, tau: d.cross_entropy(s / tau, ids)),
    "forward_kl": (c.FORWARD_KL, lambda s, t, ids, tau: d.forward_kl(s, t, temperature=tau)),
    "reverse_kl": (c.REVERSE_KL, lambda s, t, ids, tau: d.reverse_kl(s, t, temperature=tau)),
    "jsd": (
        c.jsd(0.3),
        lambda s, t, ids, tau: d.jsd(s, t, temperature=tau, teacher_weight=0.3),
    ),
    "skew_forward_kl": (
        c.skew_forward_kl(0.2),
        lambda s, t, ids, tau: d.skew_forward_kl(s, t, temperature=tau, alpha=0.2),
    ),
    "skew_reverse_kl": (
        c.skew_reverse_kl(0.2),
        lambda s, t, ids, tau: d.skew_reverse_kl(s, t, temperature=tau, alpha=0.2),
    ),
    "total_variation": (
        c.TOTAL_VARIATION,
        lambda s, t, ids, tau: d.total_variation(s, t, temperature=tau),
    ),
    "adaptive_kl": (
        c.adaptive_kl(0.4),
        lambda s, t, ids, tau: d.adaptive_kl(s, t, temperature=tau, head_mass=0.4),
    ),
    "todi": (c.TODI, lambda s, t, ids, tau: d.todi(s, t, temperature=tau)),
}
ALONE = {
    "logit_mse": (c.LOGIT_MSE, lambda s, t, ids, tau: d.logit_mse(s, t)),
    "nkd": (
        c.nkd(2.0, 1.5),
        lambda s, t, ids, tau: d.nkd(s, t, ids, temperature=2.0, non_target_weight=1.5),
    ),
    "nkd_cold": (
        c.nkd(0.3, 0.7),
        lambda s, t, ids, tau: d.nkd(s, t, ids, temperature=0.3, non_target_weight=0.7),
    ),
}
"""Without a temperature of the term's."""
every_function = pytest.mark.parametrize(
    ("closed", "pure"), (FUNCTIONS | ALONE).values(), ids=FUNCTIONS | ALONE
)


@pytest.fixture
def ids():
    ids = torch.randint(V, (N,), generator=torch.Generator().manual_seed(2))
    ids[3] = -100
    return ids


def normal(seed: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(
        N, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def assert_equal(
    closed: Divergence, pure, student: Tensor, teacher: Tensor, ids: Tensor, tau: float = 1.0
) -> None:
    student = student.clone().requires_grad_()
    weights = torch.linspace(0.5, 2.0, N, dtype=torch.float64)
    output = divergence_from_logits(
        DenseLogits(student),
        DenseLogits(teacher),
        ids,
        [HeadTerm("it", closed, tau)],
        weights[None],
    )
    expected = pure(student, teacher, ids, tau)
    torch.testing.assert_close(output.values[0], expected.detach(), rtol=1e-9, atol=1e-9)
    (ours,) = torch.autograd.grad(output.loss, student)
    (theirs,) = torch.autograd.grad((weights * expected).sum(), student)
    assert ours.isfinite().all()
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@every_function
def test_value_and_gradient_are_those_of_the_function(closed, pure, ids):
    assert_equal(closed, pure, normal(0), normal(1), ids)


@pytest.mark.parametrize("tau", [0.1, 0.5, 10.0])
@pytest.mark.parametrize(("closed", "pure"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_temperature_divides_the_logits(closed, pure, ids, tau):
    assert_equal(closed, pure, normal(0), normal(1), ids, tau)


def test_a_number_is_compared_with_its_label_and_the_teachers_without_a_gradient():
    student, teacher, labels = normal(0)[:, :1], normal(1)[:, :1], normal(2)[:, 0]
    labels[3] = -100.0
    assert_equal(c.LABEL_MSE, lambda s, t, y, tau: d.label_mse(s, y), student, teacher, labels)
    terms = [HeadTerm("it", c.TEACHER_MSE)]
    leaf = student.clone().requires_grad_()
    output = divergence_from_logits(
        DenseLogits(leaf), DenseLogits(teacher), labels, terms, torch.ones(1, N)
    )
    torch.testing.assert_close(output.values[0], d.label_mse(teacher, labels))
    assert not torch.autograd.grad(output.loss, leaf)[0].any()


@every_function
def test_also_where_the_teacher_rules_tokens_out(closed, pure, ids):
    teacher = normal(1)
    teacher[:, ::3] = -torch.inf
    teacher[2, 2:] = -torch.inf
    assert_equal(closed, pure, normal(0), teacher, ids)


@every_function
def test_also_where_the_student_is_the_teacher(closed, pure, ids):
    assert_equal(closed, pure, normal(0), normal(0), ids)


@every_function
def test_also_for_logits_of_hundreds(closed, pure, ids):
    assert_equal(closed, pure, normal(0, 100.0), normal(1, 100.0), ids)


def test_a_student_that_rules_out_what_the_teacher_allows_costs_inf_without_nan(ids):
    student, teacher = normal(0), normal(1)
    student[1, 4] = -torch.inf
    ids[1] = 4
    for name in ("forward_kl", "cross_entropy"):
        assert_equal(*FUNCTIONS[name], student, teacher, ids)
    for closed, _ in (FUNCTIONS | {"nkd": ALONE["nkd"]}).values():
        leaf = student.clone().requires_grad_()
        output = divergence_from_logits(
            DenseLogits(leaf),
            DenseLogits(teacher),
            ids,
            [HeadTerm("it", closed)],
            torch.ones(1, N),
        )
        output.loss.backward()
        assert not output.values.isnan().any()
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()


def test_nkd_is_inf_where_the_student_rules_out_any_token(ids):
    student, ids[1] = normal(0), 4
    student[1, 4] = student[2, (ids[2] + 1) % V] = -torch.inf
    output = divergence_from_logits(
        DenseLogits(student),
        DenseLogits(normal(1)),
        ids,
        [HeadTerm("nkd", c.nkd(1.0, 1.5))],
        torch.ones(1, N),
    )
    assert output.values[0].isinf().tolist() == [t in (1, 2) for t in range(N)]


def test_a_term_without_a_temperature_takes_none():
    with pytest.raises(AssertionError):
        HeadTerm("mse", c.LOGIT_MSE, 2.0)
    with pytest.raises(AssertionError):
        HeadTerm("nkd", c.nkd(2.0, 1.5), 2.0)


@pytest.mark.parametrize("tau", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("closed", "pure"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_low_precision_logits_are_taken_in_float32(closed, pure, ids, dtype, tau):
    student, teacher = normal(0).to(dtype).requires_grad_(), normal(1).to(dtype)
    output = divergence_from_logits(
        DenseLogits(student),
        DenseLogits(teacher),
        ids,
        [HeadTerm("it", closed, tau)],
        torch.ones(1, N),
    )
    exact = student.detach().double().requires_grad_()
    expected = pure(exact, teacher.double(), ids, tau)
    # A logit of 10 over temperature 0.1 is 100, where float32 has steps of 8e-6.
    torch.testing.assert_close(
        output.values[0].double(), expected.detach(), rtol=1e-5, atol=1e-5 / min(1, tau)
    )
    (ours,) = torch.autograd.grad(output.loss, student)
    (theirs,) = torch.autograd.grad(expected.sum(), exact)
    assert ours.dtype == dtype
    step = max(torch.finfo(dtype).eps, 1e-4)
    assert (ours.double() - theirs).norm() <= step * theirs.norm() + 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("closed", "pure"), ALONE.values(), ids=ALONE)
def test_so_are_those_without_a_temperature(closed, pure, ids, dtype):
    student, teacher = normal(0).to(dtype).requires_grad_(), normal(1).to(dtype)
    output = divergence_from_logits(
        DenseLogits(student), DenseLogits(teacher), ids, [HeadTerm("it", closed)], torch.ones(1, N)
    )
    exact = student.detach().double().requires_grad_()
    expected = pure(exact, teacher.double(), ids, 1.0)
    torch.testing.assert_close(output.values[0].double(), expected.detach(), rtol=1e-5, atol=1e-4)
    (ours,) = torch.autograd.grad(output.loss, student)
    (theirs,) = torch.autograd.grad(expected.sum(), exact)
    step = max(torch.finfo(dtype).eps, 1e-4)
    assert (ours.double() - theirs).norm() <= step * theirs.norm() + 1e-5


def test_what_the_teacher_rules_out_is_counted(ids):
    student, teacher = normal(0), normal(1)
    teacher[0, :5] = -torch.inf
    student[0, 0] = -torch.inf
    output = divergence_from_logits(
        DenseLogits(student),
        DenseLogits(teacher),
        ids,
        [HeadTerm("num_clamped", c.NUM_CLAMPED)],
        torch.ones(1, N),
    )
    assert output.values[0].tolist() == [4.0, *[0.0] * (N - 1)]


def test_the_teachers_loss_is_that_of_its_logits(ids):
    teacher = normal(1)
    teacher[0, ids[0]] = -torch.inf
    output = divergence_from_logits(
        DenseLogits(normal(0)),
        DenseLogits(teacher),
        ids,
        [HeadTerm("teacher_nll", c.TEACHER_NLL)],
        torch.ones(1, N),
    )
    torch.testing.assert_close(output.values[0], d.teacher_nll(teacher, ids))
