import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from llmkd.losses import divergences as d

INF = float("inf")
lawful = settings(deadline=None, max_examples=30)


def drawn(seed: int, vocab_size: int = 7, scale: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    """Student logits, teacher logits, and labels without an ignored one."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 4, vocab_size, generator=generator).double() * scale
    return student, teacher, torch.randint(vocab_size, (4,), generator=generator)


seeds = st.integers(0, 2**31)
temperatures = st.floats(0.2, 8)


def test_cross_entropy_agrees_with_torch_in_value_and_gradient_and_ignores_minus_100(gradient):
    logits, ids = torch.randn(2, 4, 9), torch.randint(9, (2, 4))
    ids[0, 1] = ids[1, 3] = -100
    expected = F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")
    assert_close(d.cross_entropy(logits, ids), expected)
    assert_close(d.teacher_nll(logits, ids), expected)
    assert_close(
        gradient(lambda z: d.cross_entropy(z, ids), logits),
        gradient(lambda z: F.cross_entropy(z.transpose(1, 2), ids, reduction="sum"), logits),
    )


def test_the_teachers_own_loss_has_no_gradient():
    logits = torch.randn(3, 6).requires_grad_()
    assert not d.teacher_nll(logits, torch.zeros(3, dtype=torch.long)).requires_grad


def test_other_ids_outside_the_vocabulary_are_refused():
    for wrong in (torch.tensor([-1]), torch.tensor([9])):
        for loss in (d.cross_entropy, partial(d.nkd, torch.randn(1, 9))):
            with pytest.raises((RuntimeError, IndexError)):
                loss(torch.randn(1, 9), wrong)


def test_a_label_that_the_teacher_rules_out_costs_infinity():
    assert d.teacher_nll(torch.tensor([[0.0, -INF]]), torch.tensor([1])).item() == INF


@lawful
@given(seed=seeds, temperature=temperatures, gamma=st.floats(0, 5))
def test_nkd_agrees_with_loops_over_the_vocabulary(seed, temperature, gamma):
    student, teacher, ids = drawn(seed)
    expected = []
    for z_s, z_t, y in zip(student.tolist(), teacher.tolist(), ids.tolist(), strict=True):
        q, p = ([math.exp(z) / sum(map(math.exp, row)) for z in row] for row in (z_s, z_t))
        hot_q, hot_p = ([math.exp(z / temperature) for z in row] for row in (z_s, z_t))
        rest_q, rest_p = (sum(row) - row[y] for row in (hot_q, hot_p))
        others = sum(hot_p[v] / rest_p * math.log(hot_q[v] / rest_q) for v in range(7) if v != y)
        expected.append(-p[y] * math.log(q[y]) - gamma * temperature**2 * others)
    value = d.nkd(student, teacher, ids, temperature=temperature, non_target_weight=gamma)
    assert_close(value, torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=1e-7)


@lawful
@given(seed=seeds, temperature=temperatures)
def test_the_gradient_of_nkd_is_the_one_worked_out_on_paper(seed, temperature, gradient):
    # Label: -p_y (1 - q_y), none from the others. Others: p_y q_v + gamma tau (q^_v - p^_v).
    student, teacher, ids = drawn(seed)
    found = gradient(lambda z: d.nkd(z, teacher, ids, temperature=temperature), student)
    label = F.one_hot(ids, 7)
    q, p_label = student.softmax(-1), (teacher.softmax(-1) * label).sum(-1, keepdim=True)
    hat_q, hat_p = ((z / temperature - 1e6 * label).softmax(-1) for z in (student, teacher))
    expected = p_label * (q - label) + 1.5 * temperature * (hat_q - hat_p)
    assert_close(found, expected, rtol=1e-7, atol=1e-9)


@lawful
@given(seed=seeds, shift=st.floats(-50, 50))
def test_a_constant_added_to_all_logits_leaves_nkd_alone(seed, shift):
    student, teacher, ids = drawn(seed)
    expected = d.nkd(student, teacher, ids)
    assert_close(d.nkd(student + shift, teacher, ids), expected, rtol=1e-9, atol=1e-9)
    assert_close(d.nkd(student, teacher - shift, ids), expected, rtol=1e-9, atol=1e-9)


@lawful
@given(seed=seeds, temperature=temperatures)
def test_the_second_part_of_nkd_is_least_where_the_student_has_matched_the_teacher(
    seed, temperature, gradient
):
    student, teacher, ids = drawn(seed)
    nkd = partial(d.nkd, target_ids=ids, temperature=temperature)

    def second_part(z: Tensor) -> Tensor:
        return nkd(z, teacher, non_target_weight=2.0) - nkd(z, teacher, non_target_weight=1.0)

    assert (second_part(teacher) <= second_part(student) + 1e-9).all()
    assert_close(gradient(second_part, teacher), torch.zeros_like(teacher), rtol=0, atol=1e-9)


def test_nkd_agrees_with_finite_differences():
    student, teacher, ids = drawn(1, scale=1.0)
    loss = partial(d.nkd, teacher_logits=teacher, target_ids=ids, temperature=2.5)
    assert torch.autograd.gradcheck(loss, student.requires_grad_())
    assert torch.autograd.gradgradcheck(loss, student)


def test_nkd_worked_by_hand():
    # p = (2, 1, 1)/4, q = (1, 2, 1)/4, label 0: p_y = 1/2, q_y = 1/4, p^ = (1/2, 1/2),
    # q^ = (2/3, 1/3).
    # Label:  1/2 ln 4                            = 0.693147181
    # Others: 1/2 ln(3/2) + 1/2 ln 3 = 0.752038698, times 1.5 = 1.128058048
    # At temperature 1/2 the odds are squared, q^ = (4/5, 1/5), for the others alone:
    # 1/2 ln(5/4) + 1/2 ln 5 = 0.916290732, times 1.5 / 4     = 0.343609024
    student, teacher = torch.tensor([[1, 2, 1], [2, 1, 1]]).double().log().unsqueeze(1)
    ids = torch.tensor([0])
    assert d.nkd(student, teacher, ids).item() == pytest.approx(1.821205229, abs=2e-9)
    hot = d.nkd(student, teacher, ids, temperature=0.5).item()
    assert hot == pytest.approx(1.036756205, abs=2e-9)


def test_a_position_without_a_label_costs_nothing_and_teaches_nothing(gradient):
    student, teacher, ids = drawn(2)
    some = ids.clone()
    some[1] = -100
    value, whole = d.nkd(student, teacher, some), d.nkd(student, teacher, ids)
    assert value[1] == 0
    assert_close(value[[0, 2, 3]], whole[[0, 2, 3]])
    slope = gradient(lambda z: d.nkd(z, teacher, some), student)
    assert (slope[1] == 0).all()
    assert (slope[0] != 0).any()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_nkd_without_any_other_token_is_the_label_alone(temperature, gradient):
    nkd = partial(d.nkd, target_ids=torch.tensor([0]), temperature=temperature)
    one = torch.randn(1, 1)
    assert nkd(one, one).item() == 0
    assert gradient(lambda z: nkd(z, one), one).item() == 0
    # The teacher allows the label alone, p_y = 1: -log q_y = ln 2, and its gradient q - p.
    student, teacher = torch.zeros(1, 2), torch.tensor([[0.0, -INF]])
    assert nkd(student, teacher).item() == pytest.approx(math.log(2))
    slope = gradient(lambda z: nkd(z, teacher), student)
    assert_close(slope, torch.tensor([[-0.5, 0.5]]))


def test_ruled_out_tokens_give_nkd_no_nan(gradient):
    student = torch.tensor([[0.0, -INF, 1.0], [-INF, 0.0, 1.0], [0.0, -INF, -INF]])
    teacher = torch.tensor([[1.0, -INF, 0.0], [-INF, 1.0, 0.0], [0.0, 0.0, 0.0]])
    ids = torch.tensor([0, 0, 0])
    # Row 0: both rule out one other. Row 1: both rule out the label. Row 2: the student rules out
    # what the teacher says, which costs infinity.
    value = d.nkd(student, teacher, ids)
    assert value.isfinite().tolist() == [True, True, False]
    assert value[2] == INF
    assert not gradient(lambda z: d.nkd(z, teacher, ids), student).isnan().any()


def test_nkd_keeps_the_others_apart_beside_a_label_that_is_all_but_certain():
    # q_y is 1 in float32, so that log(1 - q_y) would be -inf; the others are 2 : 1 all the same.
    student = torch.tensor([[60.0, math.log(2), 0.0]])
    value = d.nkd(student, student, torch.tensor([0]), non_target_weight=1.0)
    entropy = 2 / 3 * math.log(3 / 2) + 1 / 3 * math.log(3)
    assert value.item() == pytest.approx(entropy, rel=1e-5)


def test_the_logit_form_of_nkd_is_the_logprob_form_after_a_log_softmax_at_temperature_1():
    student, teacher, ids = drawn(3)
    log_q, log_p = d.logprobs(student), d.logprobs(teacher)
    options = {"temperature": 3.0, "non_target_weight": 0.5}
    value = d.nkd_from_logprobs(log_q, log_p, ids, **options)
    assert torch.equal(value, d.nkd(student, teacher, ids, **options))
    assert not d.nkd_from_logprobs(log_q, log_p.requires_grad_(), ids).requires_grad
