"""Ruled-out tokens, extreme logits, small types, small and padded vocabularies, bad arguments."""

import math
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from llmkd.losses import divergences as d

INF = float("inf")
DIVERGENCES = {
    "forward_kl": d.forward_kl,
    "reverse_kl": d.reverse_kl,
    "jsd": d.jsd,
    "skew_forward_kl": d.skew_forward_kl,
    "skew_reverse_kl": d.skew_reverse_kl,
    "total_variation": d.total_variation,
    "adaptive_kl": d.adaptive_kl,
    "todi": d.todi,
}
BY_LABEL = {
    "nkd": lambda student, teacher, **options: d.nkd(
        student, teacher, torch.zeros(student.shape[:-1], dtype=torch.long), **options
    )
}
ALL = {**DIVERGENCES, **BY_LABEL, "logit_mse": d.logit_mse}
OPTIONS = {
    "jsd": ("teacher_weight", 0.2),
    "skew_forward_kl": ("alpha", 0.3),
    "skew_reverse_kl": ("alpha", 0.3),
    "adaptive_kl": ("head_mass", 0.9),
}
every_divergence = pytest.mark.parametrize("divergence", DIVERGENCES.values(), ids=DIVERGENCES)
every_loss = pytest.mark.parametrize("loss", ALL.values(), ids=ALL)


def test_what_a_token_that_the_teacher_rules_out_costs(gradient):
    student = torch.tensor([[0.0, 0.0], [0.0, -INF]])
    teacher = torch.tensor([[0.0, -INF], [0.0, -INF]])
    # The teacher is sure, the student gives it a half: KL(p||q) = ln 2, m = (3/4, 1/4), and
    # KL(q||p) = 1000/2 - ln 2 by the floor. The skews' mixtures are (11, 9)/20 and (19, 1)/20.
    ln2, reverse = math.log(2), 500 - math.log(2)
    expected = {
        d.forward_kl: ln2,
        d.reverse_kl: reverse,
        d.jsd: 0.5 * math.log(4 / 3) + 0.5 * (0.5 * math.log(2 / 3) + 0.5 * ln2),
        d.skew_forward_kl: math.log(20 / 11),
        d.skew_reverse_kl: 0.5 * math.log(10 / 19) + 0.5 * math.log(10),
        d.total_variation: 0.5,
        d.adaptive_kl: (ln2 + reverse) / 2,
        d.todi: ln2 + reverse,
    }
    assert expected.keys() == set(DIVERGENCES.values())
    for divergence, value in expected.items():
        assert_close(divergence(student, teacher), torch.tensor([value, 0]))
        assert gradient(lambda z, f=divergence: f(z, teacher), student).isfinite().all()


@pytest.mark.parametrize("divergence", [d.forward_kl, d.reverse_kl, d.todi, d.adaptive_kl])
@pytest.mark.parametrize("ruled_out", [-INF, torch.finfo(torch.float32).min, -5000.0])
def test_the_student_is_taken_away_from_what_the_teacher_rules_out(divergence, ruled_out, gradient):
    student, teacher = torch.zeros(1, 3), torch.tensor([[0.0, 0.5, ruled_out]])
    slope = gradient(lambda z: divergence(z, teacher), student)[0]
    assert slope[2] > 0.1
    assert slope[0] < 0


def test_the_gradient_of_reverse_kl_at_its_floor_worked_by_hand(gradient):
    # q (log q - log p - KL(q||p)) with q = 1/2: log q - log p is -ln 2 and 1000 - ln 2, the mean of
    # which is the value.
    slope = gradient(lambda z: d.reverse_kl(z, torch.tensor([[0.0, -INF]])), torch.zeros(1, 2))
    assert_close(slope, torch.tensor([[-250.0, 250.0]]))


def test_one_clamped_position_leaves_the_others_alone(gradient):
    student = torch.randn(2, 3)
    teacher = torch.tensor([[0.0, 1.0, -INF], [0.0, 1.0, 2.0]])
    for divergence in DIVERGENCES.values():
        assert_close(divergence(student, teacher)[1:], divergence(student[1:], teacher[1:]))
        slope = gradient(lambda z, f=divergence: f(z, teacher), student)
        alone = gradient(lambda z, f=divergence: f(z, teacher[1:]), student[1:])
        assert_close(slope[1:], alone)


def test_the_clamps_are_counted_where_the_student_has_mass():
    log_p = torch.tensor([[0.0, -INF, -1001.0, -999.0], [0.0, -INF, -INF, -INF]])
    log_q = torch.tensor([[-1.0, -1.0, -50.0, -1.0], [0.0, -1000.0, -INF, -2.0]])
    # e**-1000 is 0 in float32: such a token costs nothing, so nothing was clamped for it.
    assert d.num_clamped(log_q, log_p).tolist() == [2, 1]
    assert d.num_clamped(log_q, log_q).tolist() == [0, 0]


def test_the_floor_is_out_of_reach_of_ordinary_logits():
    logits = torch.tensor([[90.0, 20.0, -9.0]])
    log_p = d.logprobs(logits, temperature=0.1)
    assert log_p.min() == pytest.approx(-990)
    assert d.num_clamped(d.logprobs(torch.zeros(1, 3)), log_p).item() == 0
    # 1/3 (0 + 700 + 990) - ln 3
    value = d.reverse_kl(torch.zeros(1, 3), logits, temperature=0.1).item()
    assert value == pytest.approx(1690 / 3 - math.log(3))


def test_a_student_that_rules_out_what_the_teacher_says_costs_at_most_infinity_without_nan(
    gradient,
):
    student, teacher = torch.tensor([[0.0, -INF]]), torch.tensor([[0.0, 0.0]])
    infinite = {d.forward_kl, d.adaptive_kl, d.todi}
    assert d.reverse_kl(student, teacher).item() == pytest.approx(math.log(2))
    for loss in ALL.values():
        assert not loss(student, teacher).isnan().any()
        assert not gradient(lambda z, f=loss: f(z, teacher), student).isnan().any()
    for divergence in DIVERGENCES.values():
        assert (divergence(student, teacher).item() == INF) == (divergence in infinite)


def test_adaptive_kl_leaves_out_an_infinite_forward_kl_whose_weight_is_zero(gradient):
    # The head, one token, agrees; the student rules out a token of the tail: KL(q||p) alone, 1/2 ln 2.
    log_p = torch.tensor([[0.5, 0.25, 0.25]]).log()
    log_q = torch.tensor([[0.5, 0.5, 0.0]]).log()
    value = d.adaptive_kl_from_logprobs(log_q, log_p)
    assert value.item() == pytest.approx(0.5 * math.log(2))
    assert not gradient(lambda x: d.adaptive_kl_from_logprobs(x, log_p), log_q).isnan().any()


def test_distributions_without_a_common_token_are_as_far_apart_as_can_be(gradient):
    student, teacher = torch.tensor([[0.0, -INF]]), torch.tensor([[-INF, 0.0]])
    farthest = {
        d.jsd: math.log(2),
        d.skew_forward_kl: math.log(10),
        d.skew_reverse_kl: math.log(10),
        d.total_variation: 1.0,
        d.reverse_kl: 1000.0,
    }
    for divergence, value in farthest.items():
        assert divergence(student, teacher).item() == pytest.approx(value)
        assert gradient(lambda z, f=divergence: f(z, teacher), student).isfinite().all()


def test_logit_mse_averages_over_the_tokens_that_the_teacher_allows(gradient):
    # (1 + 9) / 2, and nothing where all are ruled out.
    student = torch.zeros(2, 3)
    teacher = torch.tensor([[1.0, 3.0, -INF], [-INF, -INF, -INF]])
    assert d.logit_mse(student, teacher).tolist() == [5, 0]
    slope = gradient(lambda z: d.logit_mse(z, teacher), student)
    assert_close(slope, torch.tensor([[-1.0, -3.0, 0.0], [0.0, 0.0, 0.0]]))


@every_loss
def test_extreme_logits_give_no_nan(loss, gradient):
    student, teacher = torch.tensor([[300.0, 0.0, -300.0]]), torch.tensor([[-300.0, 0.0, 300.0]])
    assert loss(student, teacher).isfinite().all()
    assert gradient(lambda z: loss(z, teacher), student).isfinite().all()


@pytest.mark.parametrize("name", [*DIVERGENCES, *BY_LABEL])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 4.0, 10.0])
def test_float32_agrees_with_float64_at_any_usual_temperature(name, temperature, gradient):
    loss = partial(ALL[name], temperature=temperature)
    generator = torch.Generator().manual_seed(5)
    student, teacher = 4 * torch.randn(2, 50, 300, generator=generator)
    value, exact = loss(student, teacher), loss(student.double(), teacher.double())
    assert_close(value.double(), exact, rtol=1e-5, atol=1e-5)
    slope = gradient(lambda z: loss(z, teacher), student).double()
    exact_slope = gradient(lambda z: loss(z, teacher.double()), student.double())
    # To the scale of a derivative, 1 / temperature or more, and not of each number: those of a sure
    # student are differences of such terms that all but cancel.
    scale = max(1 / temperature, exact_slope.abs().max().item())
    assert_close(slope, exact_slope, rtol=1e-4, atol=1e-5 * scale)


@every_divergence
def test_a_vocabulary_of_one_token_leaves_nothing_to_learn(divergence, gradient):
    student, teacher = torch.randn(2, 4, 1)
    assert (divergence(student, teacher) == 0).all()
    assert (gradient(lambda z: divergence(z, teacher), student) == 0).all()


@every_loss
@pytest.mark.parametrize("shape", [(5,), (1, 5), (0, 5), (2, 3, 5)])
def test_there_is_one_number_per_position(loss, shape):
    student, teacher = torch.randn(2, *shape)
    assert loss(student, teacher).shape == shape[:-1]


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_upcast_before_anything_else(loss, dtype):
    student, teacher = torch.randn(2, 16, 50).to(dtype)
    value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert_close(value, loss(student.float(), teacher.float()), rtol=0, atol=0)
    exact = loss(student.double(), teacher.double())
    assert exact.dtype == torch.float64
    assert_close(value.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in ALL if name != "adaptive_kl"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_the_logits_to_half_precision_costs_little(name, dtype):
    # Rounding a logit of about 3 to bfloat16's 8 bits moves it by up to 2**-8: hence 2e-2. Without
    # adaptive_kl, whose head such a step may rightly give a token more or fewer.
    exact = torch.randn(2, 16, 50, generator=torch.Generator().manual_seed(0)).double()
    rounded = ALL[name](*exact.to(dtype)).double()
    assert_close(rounded, ALL[name](*exact), rtol=2e-2, atol=2e-2)


@every_loss
def test_the_teacher_gets_no_gradient(loss):
    student, teacher = torch.randn(2, 3, 6).unbind()
    loss(student.requires_grad_(), teacher.requires_grad_()).sum().backward()
    assert student.grad is not None
    assert teacher.grad is None


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_teacher_gets_no_gradient_through_log_probabilities_either(name):
    log_q, log_p = d.logprobs(torch.randn(2, 3, 6)).unbind()
    from_logprobs = getattr(d, f"{name}_from_logprobs")
    assert not from_logprobs(log_q, log_p.requires_grad_()).requires_grad


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_logit_form_is_the_logprob_form_after_a_log_softmax(name):
    student, teacher = torch.randn(2, 4, 9)
    log_q, log_p = (d.logprobs(z, temperature=3.0) for z in (student, teacher))
    options = dict([OPTIONS[name]]) if name in OPTIONS else {}
    value = getattr(d, f"{name}_from_logprobs")(log_q, log_p, **options)
    assert torch.equal(value, DIVERGENCES[name](student, teacher, temperature=3.0, **options))
    if options:
        plain = DIVERGENCES[name](student, teacher, temperature=3.0)
        assert not torch.allclose(value, plain, rtol=1e-3)


@every_loss
def test_a_padded_vocabulary_is_refused_with_the_way_out(loss):
    student, teacher = torch.zeros(1, 151_936), torch.zeros(1, 152_064)
    with pytest.raises(ValueError, match=r"151936 logits per position and teacher 152064.*crop"):
        loss(student, teacher)


@pytest.mark.parametrize("name", [*DIVERGENCES, *BY_LABEL])
@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(name, temperature):
    with pytest.raises(ValueError, match="temperature is"):
        ALL[name](torch.randn(2, 4), torch.randn(2, 4), temperature=temperature)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("value", [0.0, 1.0, -0.5, float("nan")])
def test_a_share_of_nothing_or_of_all_is_refused(name, value):
    option, _ = OPTIONS[name]
    with pytest.raises(ValueError, match=f"{option} is"):
        DIVERGENCES[name](torch.randn(2, 4), torch.randn(2, 4), **{option: value})
