"""What holds for any two distributions."""

import doctest
import importlib
import math
import pkgutil
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from llmkd.losses import divergences as d

lawful = settings(deadline=None, max_examples=30)

DIVERGENCES = {
    "forward_kl": d.forward_kl,
    "reverse_kl": d.reverse_kl,
    "jsd": d.jsd,
    "jsd_0.1": partial(d.jsd, teacher_weight=0.1),
    "jsd_0.9": partial(d.jsd, teacher_weight=0.9),
    "skew_forward_kl": d.skew_forward_kl,
    "skew_reverse_kl": d.skew_reverse_kl,
    "total_variation": d.total_variation,
    "adaptive_kl": d.adaptive_kl,
    "adaptive_kl_0.9": partial(d.adaptive_kl, head_mass=0.9),
    "todi": d.todi,
}
every_divergence = pytest.mark.parametrize("divergence", DIVERGENCES.values(), ids=DIVERGENCES)


@st.composite
def logit_pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    scale = draw(st.sampled_from([0.0, 0.1, 1.0, 10.0, 100.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    pair = torch.randn(2, *shape, generator=generator, dtype=torch.float64) * scale
    return pair[0], pair[1]


@every_divergence
@lawful
@given(pair=logit_pairs())
def test_no_divergence_is_negative(divergence, pair):
    assert (divergence(*pair) >= -1e-12).all()


@every_divergence
@lawful
@given(pair=logit_pairs())
def test_a_distribution_does_not_diverge_from_itself(divergence, pair):
    assert_close(divergence(pair[0], pair[0]), torch.zeros(len(pair[0])).double())


@every_divergence
@lawful
@given(pair=logit_pairs())
def test_the_gradient_is_zero_where_the_student_has_matched_the_teacher(divergence, pair, gradient):
    at_teacher = gradient(lambda z: divergence(z, pair[1]), pair[1])
    assert_close(at_teacher, torch.zeros_like(at_teacher), rtol=0, atol=1e-9)


@every_divergence
@lawful
@given(pair=logit_pairs(), shift=st.floats(-50, 50))
def test_adding_a_constant_to_all_logits_changes_nothing(divergence, pair, shift):
    student, teacher = pair
    expected = divergence(student, teacher)
    assert_close(divergence(student + shift, teacher), expected, rtol=1e-9, atol=1e-9)
    assert_close(divergence(student, teacher - shift), expected, rtol=1e-9, atol=1e-9)


@every_divergence
@lawful
@given(pair=logit_pairs(), seed=st.integers(0, 99))
def test_the_order_of_the_vocabulary_does_not_matter_even_among_ties(divergence, pair, seed):
    student, teacher = pair[0], pair[1].round()
    order = torch.randperm(student.shape[-1], generator=torch.Generator().manual_seed(seed))
    assert_close(divergence(student[:, order], teacher[:, order]), divergence(student, teacher))


@every_divergence
@lawful
@given(pair=logit_pairs(), temperature=st.floats(0.2, 8))
def test_a_temperature_is_a_division_of_both_logits(divergence, pair, temperature):
    student, teacher = pair
    expected = divergence(student / temperature, teacher / temperature)
    assert_close(divergence(student, teacher, temperature=temperature), expected)


@lawful
@given(pair=logit_pairs(), alpha=st.floats(0.01, 0.99))
def test_reverse_divergences_are_forward_ones_with_the_roles_swapped(pair, alpha):
    student, teacher = pair
    assert_close(d.reverse_kl(student, teacher), d.forward_kl(teacher, student))
    assert_close(
        d.skew_reverse_kl(student, teacher, alpha=alpha),
        d.skew_forward_kl(teacher, student, alpha=alpha),
    )


@lawful
@given(pair=logit_pairs(), weight=st.floats(0.01, 0.99))
def test_jsd_swaps_its_weight_with_the_roles_and_is_bounded(pair, weight):
    student, teacher = pair
    value = d.jsd(student, teacher, teacher_weight=weight)
    assert_close(value, d.jsd(teacher, student, teacher_weight=1 - weight))
    entropy = -weight * math.log(weight) - (1 - weight) * math.log(1 - weight)
    assert (value <= entropy + 1e-12).all()
    assert (d.jsd(student, teacher) <= math.log(2) + 1e-12).all()


@lawful
@given(pair=logit_pairs(), alpha=st.floats(0.01, 0.99))
def test_skew_divergences_are_bounded_by_their_alpha_and_by_the_plain_ones(pair, alpha):
    bound = -math.log(alpha) + 1e-12
    for skew, plain in ((d.skew_forward_kl, d.forward_kl), (d.skew_reverse_kl, d.reverse_kl)):
        value = skew(*pair, alpha=alpha)
        assert (value <= bound).all()
        # KL is convex in what it compares with, and KL(p || p) = 0.
        assert (value <= (1 - alpha) * plain(*pair) + 1e-9).all()


@lawful
@given(pair=logit_pairs())
def test_total_variation_is_symmetric_at_most_1_and_below_what_pinsker_allows(pair):
    student, teacher = pair
    value = d.total_variation(student, teacher)
    assert_close(value, d.total_variation(teacher, student))
    assert (value <= 1 + 1e-12).all()
    assert (2 * value.square() <= d.forward_kl(student, teacher) + 1e-9).all()


@lawful
@given(pair=logit_pairs(), head_mass=st.floats(0.01, 0.99))
def test_adaptive_kl_is_between_forward_and_reverse_kl(pair, head_mass):
    value = d.adaptive_kl(*pair, head_mass=head_mass)
    both = torch.stack([d.forward_kl(*pair), d.reverse_kl(*pair)])
    assert (value >= both.amin(0) * (1 - 1e-12) - 1e-12).all()
    assert (value <= both.amax(0) * (1 + 1e-12) + 1e-12).all()


@lawful
@given(pair=logit_pairs())
def test_todi_is_forward_plus_reverse_kl_in_value(pair):
    assert_close(d.todi(*pair), d.forward_kl(*pair) + d.reverse_kl(*pair))


def test_divergences_tend_to_forward_and_reverse_kl_as_their_weight_vanishes():
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    tiny, close = 1e-6, partial(assert_close, rtol=1e-4, atol=1e-6)
    close(d.jsd(*pair, teacher_weight=tiny) / tiny, d.forward_kl(*pair))
    close(d.jsd(*pair, teacher_weight=1 - tiny) / tiny, d.reverse_kl(*pair))
    close(d.skew_forward_kl(*pair, alpha=tiny), d.forward_kl(*pair))
    close(d.skew_reverse_kl(*pair, alpha=tiny), d.reverse_kl(*pair))


@lawful
@given(pair=logit_pairs(), shift=st.floats(-50, 50))
def test_logit_mse_is_a_symmetric_square_that_sees_a_shift(pair, shift):
    student, teacher = pair
    value = d.logit_mse(student, teacher)
    assert (value >= 0).all()
    assert_close(value, d.logit_mse(teacher, student))
    assert_close(d.logit_mse(3 * student, 3 * teacher), 9 * value)
    assert_close(d.logit_mse(student + shift, student), torch.full_like(value, shift**2))


def test_half_the_logit_mse_is_the_limit_of_forward_kl_times_temperature_squared():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    student, teacher = logits - logits.mean(-1, keepdim=True)
    hot = d.forward_kl(student, teacher, temperature=1e4) * 1e8
    assert_close(d.logit_mse(student, teacher) / 2, hot, rtol=1e-3, atol=0)


@pytest.mark.parametrize("module", [m.name for m in pkgutil.iter_modules(d.__path__)])
def test_the_examples_in_the_docstrings_are_true(module):
    known = {"torch": torch, **{name: getattr(d, name) for name in d.__all__}}
    found = importlib.import_module(f"{d.__name__}.{module}")
    result = doctest.testmod(found, extraglobs=known)
    assert result.attempted > 0
    assert result.failed == 0
