import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from llmkd.losses import divergences as d

lawful = settings(deadline=None, max_examples=30)

INF = float("inf")
DIVERGENCES = {
    "forward_kl": d.forward_kl,
    "reverse_kl": d.reverse_kl,
    "jsd": d.jsd,
    "jsd_0.1": partial(d.jsd, teacher_weight=0.1),
    "jsd_0.9": partial(d.jsd, teacher_weight=0.9),
}
every_divergence = pytest.mark.parametrize("divergence", DIVERGENCES.values(), ids=DIVERGENCES)


@st.composite
def logit_pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    scale = draw(st.sampled_from([0.0, 0.1, 1.0, 10.0, 100.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    pair = torch.randn(2, *shape, generator=generator, dtype=torch.float64) * scale
    return pair[0], pair[1]


def gradient(function, logits: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_()
    (result,) = torch.autograd.grad(function(leaf).sum(), leaf)
    return result


def bernoulli(probability: float) -> Tensor:
    return torch.tensor([[probability, 1 - probability]], dtype=torch.float64).log()


# Laws.


@every_divergence
@lawful
@given(pair=logit_pairs())
def test_no_divergence_is_negative(divergence, pair):
    assert (divergence(*pair) >= -1e-12).all()


@every_divergence
@lawful
@given(pair=logit_pairs())
def test_a_distribution_does_not_diverge_from_itself(divergence, pair):
    torch.testing.assert_close(divergence(pair[0], pair[0]), torch.zeros(len(pair[0])).double())


@every_divergence
@lawful
@given(pair=logit_pairs())
def test_the_gradient_is_zero_where_the_student_has_matched_the_teacher(divergence, pair):
    at_teacher = gradient(lambda z: divergence(z, pair[1]), pair[1])
    torch.testing.assert_close(at_teacher, torch.zeros_like(at_teacher), rtol=0, atol=1e-9)


@every_divergence
@lawful
@given(pair=logit_pairs(), shift=st.floats(-50, 50))
def test_adding_a_constant_to_all_logits_changes_nothing(divergence, pair, shift):
    student, teacher = pair
    expected = divergence(student, teacher)
    torch.testing.assert_close(divergence(student + shift, teacher), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(divergence(student, teacher - shift), expected, rtol=1e-9, atol=1e-9)


@every_divergence
@lawful
@given(pair=logit_pairs(), temperature=st.floats(0.2, 8))
def test_a_temperature_is_a_division_of_both_logits(divergence, pair, temperature):
    student, teacher = pair
    expected = divergence(student / temperature, teacher / temperature)
    torch.testing.assert_close(divergence(student, teacher, temperature=temperature), expected)


@lawful
@given(pair=logit_pairs())
def test_reverse_kl_is_forward_kl_with_the_roles_swapped(pair):
    student, teacher = pair
    torch.testing.assert_close(d.reverse_kl(student, teacher), d.forward_kl(teacher, student))


@lawful
@given(pair=logit_pairs(), weight=st.floats(0.01, 0.99))
def test_jsd_swaps_its_weight_with_the_roles_and_is_bounded(pair, weight):
    student, teacher = pair
    value = d.jsd(student, teacher, teacher_weight=weight)
    torch.testing.assert_close(value, d.jsd(teacher, student, teacher_weight=1 - weight))
    entropy = -weight * math.log(weight) - (1 - weight) * math.log(1 - weight)
    assert (value <= entropy + 1e-12).all()
    assert (d.jsd(student, teacher) <= math.log(2) + 1e-12).all()


def test_jsd_over_its_weight_tends_to_forward_and_reverse_kl():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    tiny = 1e-6
    near_0 = d.jsd(student, teacher, teacher_weight=tiny) / tiny
    near_1 = d.jsd(student, teacher, teacher_weight=1 - tiny) / tiny
    torch.testing.assert_close(near_0, d.forward_kl(student, teacher), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(near_1, d.reverse_kl(student, teacher), rtol=1e-4, atol=1e-6)


# Gradients and independent references.


@every_divergence
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_gradients_agree_with_finite_differences(divergence, temperature):
    generator = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64)
    student.requires_grad_()
    loss = partial(divergence, teacher_logits=teacher, temperature=temperature)
    assert torch.autograd.gradcheck(loss, student)
    assert torch.autograd.gradgradcheck(loss, student)


@every_divergence
def test_the_teacher_gets_no_gradient(divergence):
    student, teacher = torch.randn(2, 3, 6).unbind()
    divergence(student.requires_grad_(), teacher.requires_grad_()).sum().backward()
    assert student.grad is not None
    assert teacher.grad is None
    assert not d.teacher_nll(teacher, torch.zeros(3, dtype=torch.long)).requires_grad


@pytest.mark.parametrize(
    "from_logprobs",
    [d.forward_kl_from_logprobs, d.reverse_kl_from_logprobs, d.jsd_from_logprobs],
)
def test_the_teacher_gets_no_gradient_through_log_probabilities_either(from_logprobs):
    log_q, log_p = d.logprobs(torch.randn(2, 3, 6)).unbind()
    assert not from_logprobs(log_q, log_p.requires_grad_()).requires_grad


@lawful
@given(pair=logit_pairs(), weight=st.floats(0.01, 0.99))
def test_values_agree_with_torch_distributions(pair, weight):
    q, p = (Categorical(logits=logits) for logits in pair)
    m = Categorical(probs=weight * p.probs + (1 - weight) * q.probs)
    jsd = weight * kl_divergence(p, m) + (1 - weight) * kl_divergence(q, m)
    close = partial(torch.testing.assert_close, rtol=1e-7, atol=1e-7)
    close(d.forward_kl(*pair), kl_divergence(p, q))
    close(d.reverse_kl(*pair), kl_divergence(q, p))
    close(d.jsd(*pair, teacher_weight=weight), jsd)


def test_cross_entropy_agrees_with_torch_in_value_and_gradient_and_ignores_minus_100():
    logits, ids = torch.randn(2, 4, 9), torch.randint(9, (2, 4))
    ids[0, 1] = ids[1, 3] = -100
    expected = F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")
    torch.testing.assert_close(d.cross_entropy(logits, ids), expected)
    torch.testing.assert_close(d.teacher_nll(logits, ids), expected)
    torch.testing.assert_close(
        gradient(lambda z: d.cross_entropy(z, ids), logits),
        gradient(lambda z: F.cross_entropy(z.transpose(1, 2), ids, reduction="sum"), logits),
    )


def test_other_ids_outside_the_vocabulary_are_refused():
    for wrong in (-1, 9):
        with pytest.raises((RuntimeError, IndexError)):
            d.cross_entropy(torch.randn(1, 9), torch.tensor([wrong]))


def test_values_worked_by_hand():
    # p = (3/4, 1/4), q = (1/2, 1/2).
    # KL(p||q) = 3/4 ln(3/2) + 1/4 ln(1/2)                       = 0.304098831 - 0.173286795
    # KL(q||p) = 1/2 ln(2/3) + 1/2 ln 2                          = -0.202732554 + 0.346573590
    # w = 1/4: m = (9/16, 7/16).
    # KL(p||m) = 3/4 ln(4/3) + 1/4 ln(4/7)                       = 0.215761554 - 0.139903947
    # KL(q||m) = 1/2 ln(8/9) + 1/2 ln(8/7)                       = -0.058891518 + 0.066765696
    # JSD      = 1/4 * 0.075857607 + 3/4 * 0.007874178           = 0.018964402 + 0.005905634
    student, teacher = bernoulli(0.5), bernoulli(0.75)
    assert d.forward_kl(student, teacher).item() == pytest.approx(0.130812036, abs=1e-8)
    assert d.reverse_kl(student, teacher).item() == pytest.approx(0.143841036, abs=1e-8)
    assert d.jsd(student, teacher, teacher_weight=0.25).item() == pytest.approx(
        0.024870036, abs=1e-8
    )
    # Temperature 1/2 squares the odds: p becomes (9/10, 1/10), and KL(p||q) = ln 2 - H(1/10).
    assert d.forward_kl(student, teacher, temperature=0.5).item() == pytest.approx(
        0.368064207, abs=1e-8
    )


# Edges.


def test_a_token_that_the_teacher_rules_out_costs_forward_kl_nothing_and_reverse_kl_everything():
    student = torch.tensor([[0.0, 0.0], [0.0, -INF]])
    teacher = torch.tensor([[0.0, -INF], [0.0, -INF]])
    # The teacher is sure; the student gives it a half: KL(p||q) = ln 2, m = (3/4, 1/4).
    jsd = 0.5 * math.log(4 / 3) + 0.5 * (0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    expected = {d.forward_kl: [math.log(2), 0], d.reverse_kl: [INF, 0], d.jsd: [jsd, 0]}
    for divergence, values in expected.items():
        torch.testing.assert_close(divergence(student, teacher), torch.tensor(values))
        assert gradient(lambda z, f=divergence: f(z, teacher), student).isfinite().all()


def test_forward_kl_teaches_the_student_to_leave_what_the_teacher_rules_out():
    student, teacher = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, -INF]])
    # q - p for forward KL.
    expected = torch.tensor([[1 / 3 - 1 / 2, 1 / 3 - 1 / 2, 1 / 3]])
    torch.testing.assert_close(gradient(lambda z: d.forward_kl(z, teacher), student), expected)


def test_an_infinite_reverse_kl_leaves_the_other_positions_alone():
    student = torch.randn(2, 3)
    teacher = torch.tensor([[0.0, 1.0, -INF], [0.0, 1.0, 2.0]])
    values = d.reverse_kl(student, teacher)
    assert values[0] == INF
    torch.testing.assert_close(values[1:], d.reverse_kl(student[1:], teacher[1:]))
    slope = gradient(lambda z: d.reverse_kl(z, teacher), student)
    assert (slope[0] == 0).all()
    torch.testing.assert_close(
        slope[1:], gradient(lambda z: d.reverse_kl(z, teacher[1:]), student[1:])
    )


def test_a_student_that_rules_out_what_the_teacher_says_costs_infinity_without_nan():
    student, teacher = torch.tensor([[0.0, -INF]]), torch.tensor([[0.0, 0.0]])
    assert d.forward_kl(student, teacher).item() == INF
    assert d.reverse_kl(student, teacher).item() == pytest.approx(math.log(2))
    for divergence in DIVERGENCES.values():
        assert not gradient(lambda z, f=divergence: f(z, teacher), student).isnan().any()


def test_a_label_that_the_teacher_rules_out_costs_infinity():
    assert d.teacher_nll(torch.tensor([[0.0, -INF]]), torch.tensor([1])).item() == INF


def test_distributions_without_a_common_token_have_a_jsd_of_ln_2():
    student, teacher = torch.tensor([[0.0, -INF]]), torch.tensor([[-INF, 0.0]])
    assert d.jsd(student, teacher).item() == pytest.approx(math.log(2))
    assert gradient(lambda z: d.jsd(z, teacher), student).isfinite().all()


@every_divergence
def test_extreme_logits_give_no_nan(divergence):
    student, teacher = torch.tensor([[300.0, 0.0, -300.0]]), torch.tensor([[-300.0, 0.0, 300.0]])
    assert divergence(student, teacher).isfinite().all()
    assert gradient(lambda z: divergence(z, teacher), student).isfinite().all()


@every_divergence
def test_a_vocabulary_of_one_token_leaves_nothing_to_learn(divergence):
    student, teacher = torch.randn(2, 4, 1)
    assert (divergence(student, teacher) == 0).all()
    assert (gradient(lambda z: divergence(z, teacher), student) == 0).all()


@every_divergence
@pytest.mark.parametrize("shape", [(5,), (1, 5), (0, 5), (2, 3, 5)])
def test_there_is_one_number_per_position(divergence, shape):
    student, teacher = torch.randn(2, *shape)
    assert divergence(student, teacher).shape == shape[:-1]
    assert d.cross_entropy(student, torch.zeros(shape[:-1], dtype=torch.long)).shape == shape[:-1]


@every_divergence
def test_bfloat16_is_upcast_before_anything_else(divergence):
    # Rounding a logit of about 3 to bfloat16's 8 bits moves it by up to 2**-8: hence 2e-2. The
    # rounded logits themselves must be treated as exactly as float32 can.
    exact = torch.randn(2, 16, 50, dtype=torch.float64)
    student, teacher = exact.bfloat16()
    value = divergence(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), divergence(*exact), rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(value, divergence(student.float(), teacher.float()))
    assert divergence(*exact).dtype == torch.float64


@every_divergence
def test_the_logit_form_is_the_logprob_form_after_a_log_softmax(divergence):
    base = getattr(divergence, "func", divergence)
    from_logprobs = getattr(d, base.__name__ + "_from_logprobs")
    student, teacher = torch.randn(2, 4, 9)
    log_q, log_p = (d.logprobs(z, temperature=3.0) for z in (student, teacher))
    value = from_logprobs(log_q, log_p, **getattr(divergence, "keywords", {}))
    assert torch.equal(value, divergence(student, teacher, temperature=3.0))


@every_divergence
def test_bad_arguments_are_refused(divergence):
    logits = torch.randn(2, 4)
    with pytest.raises(ValueError, match="student has 4 logits per position and teacher 5"):
        divergence(logits, torch.randn(2, 5))
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="temperature is"):
            divergence(logits, logits, temperature=temperature)


@pytest.mark.parametrize("weight", [0.0, 1.0, -0.5, float("nan")])
def test_jsd_refuses_a_weight_at_which_it_vanishes(weight):
    with pytest.raises(ValueError, match="teacher_weight is"):
        d.jsd(torch.randn(2, 4), torch.randn(2, 4), teacher_weight=weight)
