"""Values and gradients against independent computations: torch.distributions, loops, hand."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence
from torch.testing import assert_close

from llmkd.losses import divergences as d


def pair_of(seed: int, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 4, 7, generator=generator, dtype=torch.float64) * scale


def bernoulli(probability: float) -> Tensor:
    return torch.tensor([[probability, 1 - probability]], dtype=torch.float64).log()


pairs = pytest.mark.parametrize("pair", [pair_of(s, c) for s in range(5) for c in (0.1, 1.0, 5.0)])


@pairs
@pytest.mark.parametrize("weight", [0.02, 0.3, 0.5, 0.9])
def test_kl_and_mixtures_agree_with_torch_distributions(pair, weight):
    q, p = (Categorical(logits=logits) for logits in pair)
    m = Categorical(probs=weight * p.probs + (1 - weight) * q.probs)
    close = partial(assert_close, rtol=1e-7, atol=1e-7)
    close(d.forward_kl(*pair), kl_divergence(p, q))
    close(d.reverse_kl(*pair), kl_divergence(q, p))
    jsd = weight * kl_divergence(p, m) + (1 - weight) * kl_divergence(q, m)
    close(d.jsd(*pair, teacher_weight=weight), jsd)
    close(d.skew_forward_kl(*pair, alpha=weight), kl_divergence(p, m))
    close(d.skew_reverse_kl(*pair, alpha=1 - weight), kl_divergence(q, m))


def total_variation(p: list[float], q: list[float]) -> float:
    # By its other definition: the most by which an event's two probabilities differ.
    return sum(a - b for a, b in zip(p, q, strict=True) if a > b)


def adaptive_kl(p: list[float], q: list[float], head_mass: float) -> float:
    gaps, mass, rest = {"head": 0.0, "tail": 0.0}, 0.0, "head"
    for rank, (a, b) in enumerate(sorted(zip(p, q, strict=True), reverse=True)):
        mass += a
        rest = "head" if mass <= head_mass or rank == 0 else "tail"
        gaps[rest] += abs(a - b)
    forward = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    reverse = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    return (gaps["head"] * forward + gaps["tail"] * reverse) / sum(gaps.values())


def todi(p: list[float], q: list[float]) -> float:
    return sum(
        a / (a + b) * a * math.log(a / b) + b / (a + b) * b * math.log(b / a)
        for a, b in zip(p, q, strict=True)
    )


@pairs
@pytest.mark.parametrize(
    ("divergence", "by_loops"),
    [
        (d.total_variation, total_variation),
        (d.adaptive_kl, partial(adaptive_kl, head_mass=0.5)),
        (partial(d.adaptive_kl, head_mass=0.1), partial(adaptive_kl, head_mass=0.1)),
        (partial(d.adaptive_kl, head_mass=0.9), partial(adaptive_kl, head_mass=0.9)),
        (d.todi, todi),
    ],
    ids=["total_variation", "adaptive_kl", "adaptive_kl_0.1", "adaptive_kl_0.9", "todi"],
)
def test_the_others_agree_with_loops_over_the_vocabulary(pair, divergence, by_loops):
    q, p = pair.softmax(-1).tolist()
    expected = torch.tensor([by_loops(*row) for row in zip(p, q, strict=True)]).double()
    assert_close(divergence(*pair), expected, rtol=1e-6, atol=1e-7)


def test_adaptive_kl_finds_a_head_of_many_tokens_as_it_finds_one_of_few():
    # The first row's head holds about a third of 3,000 tokens, the second's one token.
    student, teacher = torch.randn(2, 2, 3000, generator=torch.Generator().manual_seed(0)).double()
    teacher[1, 7] = 30
    q, p = (torch.stack([student, teacher]).softmax(-1)).tolist()
    expected = [adaptive_kl(*row, head_mass=0.6) for row in zip(p, q, strict=True)]
    value = d.adaptive_kl(student, teacher, head_mass=0.6)
    assert_close(value, torch.tensor(expected, dtype=torch.float64))


def test_values_worked_by_hand():
    # p = (3/4, 1/4), q = (1/2, 1/2).
    # KL(p||q) = 3/4 ln(3/2) + 1/4 ln(1/2)                       = 0.304098831 - 0.173286795
    # KL(q||p) = 1/2 ln(2/3) + 1/2 ln 2                          = -0.202732554 + 0.346573590
    # w = 1/4: m = (9/16, 7/16).
    # KL(p||m) = 3/4 ln(4/3) + 1/4 ln(4/7)                       = 0.215761554 - 0.139903947
    # KL(q||m) = 1/2 ln(8/9) + 1/2 ln(8/7)                       = -0.058891518 + 0.066765696
    # JSD      = 1/4 * 0.075857607 + 3/4 * 0.007874178           = 0.018964402 + 0.005905634
    # alpha = 1/5: p's mixture is (11/20, 9/20), q's is (7/10, 3/10).
    # skew     = 3/4 ln(15/11) + 1/4 ln(5/9)                     = 0.232616196 - 0.146946666
    # reverse  = 1/2 ln(5/7) + 1/2 ln(5/3)                       = -0.168236118 + 0.255412812
    # AKL      = (KL(p||q) + KL(q||p)) / 2, as head and tail are one token each and 1/4 off.
    student, teacher = bernoulli(0.5), bernoulli(0.75)
    by_hand = {
        d.forward_kl: 0.130812036,
        d.reverse_kl: 0.143841036,
        partial(d.jsd, teacher_weight=0.25): 0.024870036,
        partial(d.skew_forward_kl, alpha=0.2): 0.085669530,
        partial(d.skew_reverse_kl, alpha=0.2): 0.087176694,
        d.total_variation: 0.25,
        d.adaptive_kl: 0.137326536,
        d.todi: 0.274653072,
        # Temperature 1/2 squares the odds: p becomes (9/10, 1/10), and KL(p||q) = ln 2 - H(1/10).
        partial(d.forward_kl, temperature=0.5): 0.368064207,
    }
    for divergence, expected in by_hand.items():
        assert divergence(student, teacher).item() == pytest.approx(expected, abs=2e-9)


def test_adaptive_kl_of_four_tokens_worked_by_hand():
    # p = (4, 3, 2, 1)/10, q uniform; KL(p||q) = ln 4 - H(p) = 0.106440135,
    # KL(q||p) = -ln 4 - ln(0.0024)/4 = 0.121777274. The gaps are 0.15, 0.05, 0.05, 0.15.
    # 0.4 fits into 0.5 and 0.7 does not: a head of one token, whose gap is 3/8 of all.
    # Into 0.71 fit two, half of the gap; into 0.3 none does, and the first is taken all the same.
    log_p, log_q = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).double().log(), torch.zeros(1, 4).double()
    expected = {0.5: 0.116025847, 0.71: 0.114108704, 0.3: 0.116025847}
    for head_mass, value in expected.items():
        found = d.adaptive_kl(log_q, log_p, head_mass=head_mass).item()
        assert found == pytest.approx(value, abs=1e-8)


def test_what_fills_the_head_exactly_is_in_it():
    # 1/2 + 1/4 fits into 3/4 but not into 0.74, and the student is off in these two tokens alone, by
    # 1/8 each: all forward KL, or half of it.
    log_p = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).double().log()
    log_q = torch.tensor([[0.375, 0.375, 0.125, 0.125]]).double().log()
    value = d.adaptive_kl_from_logprobs(log_q, log_p, head_mass=0.75)
    forward, reverse = (
        f(log_q, log_p) for f in (d.forward_kl_from_logprobs, d.reverse_kl_from_logprobs)
    )
    assert_close(value, forward)
    below = d.adaptive_kl_from_logprobs(log_q, log_p, head_mass=0.74)
    assert_close(below, (forward + reverse) / 2)


def test_a_head_mass_next_to_1_takes_the_whole_of_a_flat_teacher():
    # 1 - 1e-9 is 1 in float32, which the whole vocabulary's mass does not exceed.
    student = torch.randn(1, 4, generator=torch.Generator().manual_seed(0))
    value = d.adaptive_kl(student, torch.zeros(1, 4), head_mass=1 - 1e-9)
    assert_close(value, d.forward_kl(student, torch.zeros(1, 4)))


DIFFERENTIATED = {
    "forward_kl": d.forward_kl,
    "reverse_kl": d.reverse_kl,
    "jsd": d.jsd,
    "jsd_0.1": partial(d.jsd, teacher_weight=0.1),
    "skew_forward_kl": d.skew_forward_kl,
    "skew_forward_kl_0.7": partial(d.skew_forward_kl, alpha=0.7),
    "skew_reverse_kl": d.skew_reverse_kl,
    "skew_reverse_kl_0.7": partial(d.skew_reverse_kl, alpha=0.7),
    "total_variation": d.total_variation,
}
temperatures = pytest.mark.parametrize("temperature", [1.0, 2.5])


@pytest.mark.parametrize("divergence", DIFFERENTIATED.values(), ids=DIFFERENTIATED)
@temperatures
def test_gradients_agree_with_finite_differences(divergence, temperature):
    student, teacher = pair_of(1, scale=1.0)
    student.requires_grad_()
    loss = partial(divergence, teacher_logits=teacher, temperature=temperature)
    assert torch.autograd.gradcheck(loss, student)
    assert torch.autograd.gradgradcheck(loss, student)


def test_the_gradient_of_logit_mse_agrees_with_finite_differences():
    student, teacher = pair_of(1)
    teacher[0, 2] = -torch.inf
    loss = partial(d.logit_mse, teacher_logits=teacher)
    assert torch.autograd.gradcheck(loss, student.requires_grad_())


def test_label_mse_is_torchs_mean_squared_error_one_by_one():
    outputs, labels = torch.randn(2, 3, 5, dtype=torch.float64)
    labels[0, 0] = -100.0  # A label like any other.
    expected = torch.nn.functional.mse_loss(outputs, labels, reduction="none")
    assert_close(d.label_mse(outputs.unsqueeze(-1), labels), expected)
    assert torch.autograd.gradcheck(
        partial(d.label_mse, targets=labels), outputs.unsqueeze(-1).requires_grad_()
    )
    # Half precision is left before anything is subtracted: (2.5 - 2.501)^2.
    half = d.label_mse(torch.tensor([[2.5]], dtype=torch.bfloat16), torch.tensor([2.501]))
    assert_close(half, torch.tensor([1e-6]), rtol=1e-3, atol=0)


def slope_by_finite_differences(function, logits: Tensor, step: float = 1e-6) -> Tensor:
    slope = torch.empty_like(logits)
    for index in range(logits.numel()):
        moved = torch.zeros(logits.numel(), dtype=logits.dtype)
        moved[index] = step
        moved = moved.view_as(logits)
        difference = function(logits + moved).sum() - function(logits - moved).sum()
        slope.view(-1)[index] = difference / (2 * step)
    return slope


@temperatures
def test_the_gradient_of_adaptive_kl_is_that_with_its_weights_held_fixed(temperature, gradient):
    student, teacher = pair_of(2, scale=1.0)
    kls = (
        partial(d.forward_kl, temperature=temperature),
        partial(d.reverse_kl, temperature=temperature),
    )
    forward, reverse = (kl(student, teacher) for kl in kls)
    value = d.adaptive_kl(student, teacher, temperature=temperature)
    weight = (value - reverse) / (forward - reverse)
    assert ((weight > 0.01) & (weight < 0.99)).all()
    fixed = slope_by_finite_differences(
        lambda z: weight * kls[0](z, teacher) + (1 - weight) * kls[1](z, teacher), student
    )
    found = gradient(lambda z: d.adaptive_kl(z, teacher, temperature=temperature), student)
    assert_close(found, fixed, rtol=1e-6, atol=1e-8)


@temperatures
def test_the_gradient_of_todi_is_that_with_its_weights_held_fixed(temperature, gradient):
    student, teacher = pair_of(3, scale=1.0)
    p, at_student = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    weight = p / (p + at_student)

    def with_fixed_weights(z: Tensor) -> Tensor:
        q = (z / temperature).softmax(-1)
        return (weight * p * (p / q).log() + (1 - weight) * q * (q / p).log()).sum(-1)

    fixed = slope_by_finite_differences(with_fixed_weights, student)
    found = gradient(lambda z: d.todi(z, teacher, temperature=temperature), student)
    assert_close(found, fixed, rtol=1e-6, atol=1e-8)
