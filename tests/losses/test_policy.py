"""The gradients that forms of reverse KL on drawn tokens have: by enumeration of all sequences."""

import math

import pytest
import torch
from torch.testing import assert_close

from llmkd.errors import InputError
from llmkd.losses.policy import ESTIMATORS, advantage, corrected_k3, estimator, k2

V = 5
every_form = pytest.mark.parametrize("form", ESTIMATORS.values(), ids=ESTIMATORS)


class TwoTokens:
    """A distribution over all sequences of two tokens: a table of logits for each of the two."""

    def __init__(self, seed, *, scale=1.0):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(1 + V, V, generator=generator, dtype=torch.float64) * scale
        self.logits = rows.requires_grad_()

    def log_softmax(self):
        return self.logits.log_softmax(-1)

    def of_tokens(self):
        """Log-probabilities of both tokens of all V * V sequences."""
        rows = self.log_softmax()
        first = rows[0].repeat_interleave(V)
        return torch.stack([first, rows[1:].flatten()], dim=1)

    def of_sequences(self):
        return self.of_tokens().sum(1).exp().detach()


def moved(student, seed=3):
    """An older student, not far from the present one."""
    older = TwoTokens(seed, scale=0.3)
    with torch.no_grad():
        older.logits += student.logits
    return older


def gradient_of(loss, student):
    (gradient,) = torch.autograd.grad(loss, student.logits)
    return gradient


def expected_gradient(form, student, teacher, drawn_by):
    """Of the sum over both tokens, over the sequences of whoever drew them."""
    old = drawn_by.of_tokens().detach()
    per_token = form(student.of_tokens(), teacher.of_tokens().detach(), old)
    return gradient_of((drawn_by.of_sequences() * per_token.sum(1)).sum(), student)


def exact_gradient(student, teacher, drawn_by, divergence):
    """Of the divergence at the first position, and at the second after each drawn first token."""
    q, p = student.log_softmax(), teacher.log_softmax().detach()
    values = {"reverse": q.exp() * (q - p), "forward": p.exp() * (p - q)}[divergence].sum(-1)
    after = drawn_by.log_softmax()[0].exp().detach()
    return gradient_of(values[0] + (after * values[1:]).sum(), student)


@every_form
def test_on_policy_the_expected_gradient_is_that_of_the_reverse_kl(form):
    student, teacher = TwoTokens(1), TwoTokens(2)
    found = expected_gradient(form, student, teacher, drawn_by=student)
    expected = exact_gradient(student, teacher, student, "reverse")
    assert expected.abs().max() > 0.1
    assert_close(found, expected, atol=1e-9, rtol=1e-9)


@every_form
def test_on_policy_each_sequence_has_the_same_gradient_in_every_form(form):
    student, teacher = TwoTokens(1), TwoTokens(2)
    for sequence in range(0, V * V, 4):
        found, expected = (
            gradient_of(f(student.of_tokens(), teacher.of_tokens(), None)[sequence].sum(), student)
            for f in (form, k2)
        )
        assert_close(found, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    "form", [k2, corrected_k3, lambda *x: advantage(*x, clip_low=1.0, clip_high=9.0)]
)
def test_on_tokens_of_an_older_student_the_ratio_puts_the_expectation_right(form):
    student, teacher = TwoTokens(1), TwoTokens(2)
    older = moved(student)
    found = expected_gradient(form, student, teacher, drawn_by=older)
    expected = exact_gradient(student, teacher, older, "reverse")
    assert_close(found, expected, atol=1e-9, rtol=1e-9)
    without = expected_gradient(lambda q, p, _: form(q, p, None), student, teacher, drawn_by=older)
    assert (without - expected).abs().max() > 1e-2


def test_a_live_ratio_would_spoil_k2_even_on_policy():
    student, teacher = TwoTokens(1), TwoTokens(2)

    def live(q, p, old):
        return (q - old).exp() * (q - p).square() / 2

    found = expected_gradient(live, student, teacher, drawn_by=student)
    expected = exact_gradient(student, teacher, student, "reverse")
    assert (found - expected).abs().max() > 1e-2


def test_k1_as_a_loss_teaches_nothing():
    student, teacher = TwoTokens(1), TwoTokens(2)
    found = expected_gradient(lambda q, p, _: q - p, student, teacher, drawn_by=student)
    assert found.abs().max() < 1e-12


def test_k3_without_the_ratio_has_the_gradient_of_the_forward_kl():
    student, teacher = TwoTokens(1), TwoTokens(2)
    found = expected_gradient(
        lambda q, p, _: (p - q).exp() - (p - q) - 1, student, teacher, drawn_by=student
    )
    assert_close(found, exact_gradient(student, teacher, student, "forward"), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("name", "reason"), [("k1", "zero on average"), ("k3", "forward KL")])
def test_an_estimator_of_the_wrong_gradient_is_refused_with_the_reason(name, reason):
    with pytest.raises(InputError, match=f"{name} as a loss is refused.*{reason}.*write one of k2"):
        estimator(name)


def test_an_unknown_estimator_is_refused_with_those_there_are():
    with pytest.raises(InputError, match="no k4; write one of k2, corrected_k3, advantage"):
        estimator("k4")


def test_values_are_those_worked_out_by_hand():
    # The student gives the token 1/2 and the teacher 1/4, so d = log 2 = 0.6931.
    q, p = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    assert k2(q, p).item() == pytest.approx(0.6931**2 / 2, abs=1e-4)
    assert corrected_k3(q, p).item() == pytest.approx(0.5 + 0.6931 - 1, abs=1e-4)
    assert advantage(q, p).item() == pytest.approx(0.6931, abs=1e-4)
    # Drawn by a student that gave it 5/12: the ratio is 6/5.
    old = torch.tensor([5 / 12]).log()
    assert k2(q, p, old).item() == pytest.approx(1.2 * 0.2402, abs=1e-4)
    assert corrected_k3(q, p, old).item() == pytest.approx(1.2 * 0.1931, abs=1e-4)


@pytest.mark.parametrize(
    ("student", "teacher", "old", "is_clipped"),
    [
        (0.3, 0.6, 0.2, True),  # Ratio 1.5, and the teacher asks for more of it.
        (0.3, 0.1, 0.2, False),  # Ratio 1.5, and the teacher asks for less.
        (0.1, 0.05, 0.2, True),  # Ratio 0.5, and the teacher asks for less still.
        (0.1, 0.6, 0.2, False),
        (0.22, 0.6, 0.2, False),  # Ratio 1.1, inside.
    ],
)
def test_an_advantage_stops_pushing_where_the_ratio_has_gone_far_already(
    student, teacher, old, is_clipped
):
    q = torch.tensor([student], dtype=torch.float64).log().requires_grad_()
    p, old = (torch.tensor([x], dtype=torch.float64).log() for x in (teacher, old))
    (gradient,) = torch.autograd.grad(advantage(q, p, old).sum(), q)
    ratio, difference = (q - old).exp(), q - p
    assert_close(gradient, torch.zeros_like(q) if is_clipped else ratio * difference)


@every_form
def test_a_token_that_the_teacher_rules_out_has_a_finite_push_away(form):
    q = torch.tensor([-1.0]).requires_grad_()
    value = form(q, torch.tensor([-torch.inf]), None)
    (gradient,) = torch.autograd.grad(value.sum(), q)
    assert value.isfinite().all()
    assert_close(gradient, torch.tensor([999.0]))


@every_form
def test_a_token_far_likelier_to_the_teacher_keeps_its_gradient_in_float32(form):
    q = torch.tensor([-95.0]).requires_grad_()
    value = form(q, torch.tensor([-1.0]), None)
    (gradient,) = torch.autograd.grad(value.sum(), q)
    assert value.isfinite().all()
    assert_close(gradient, torch.tensor([-94.0]))


@every_form
def test_half_precision_is_widened_first(form):
    q, p = torch.tensor([-1.0, -7.0]), torch.tensor([-2.0, -3.0])
    found = form(q.bfloat16(), p.bfloat16(), None)
    assert found.dtype == torch.float32
    assert_close(found, form(q, p, None))


def test_padding_with_equal_log_probabilities_is_worth_nothing():
    zeros = torch.zeros(2, 3)
    for form in ESTIMATORS.values():
        assert form(zeros, zeros, None).abs().max() == 0
    assert math.isclose(k2(zeros, zeros - 2).mean(), 2.0)
