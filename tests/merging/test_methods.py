import math

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmkd.merging.methods import (
    coefficients,
    cosine,
    slerp_coefficients,
    weighted_sum,
)
from llmkd.recipe.merging import Linear, Slerp, TaskArithmetic

SEEDS = st.integers(0, 2**31)
WEIGHTS = st.floats(0, 1)


def pair(seed, num=24, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(num, generator=generator, dtype=dtype) for _ in range(2))


def slerp(a, b, weight):
    return weighted_sum([a, b], slerp_coefficients(cosine(a, b), weight))


def reference_slerp(a, b, weight):
    """Gram-Schmidt in float64: turn the first unit vector towards the second by a part of the angle.

    Of tensors of one norm; no sine of a sum is taken apart, as the formula does.
    """
    a, b = (numpy.asarray(each, dtype=numpy.float64) for each in (a, b))
    u, v = a / numpy.linalg.norm(a), b / numpy.linalg.norm(b)
    w = v - (u @ v) * u
    w /= numpy.linalg.norm(w)
    angle = weight * math.atan2(v @ w, v @ u)
    return numpy.linalg.norm(a) * (math.cos(angle) * u + math.sin(angle) * w)


@given(SEEDS, WEIGHTS)
def test_slerp_turns_one_vector_towards_the_other(seed, weight):
    a, b = pair(seed)
    b *= a.norm() / b.norm()
    expected = reference_slerp(a, b, weight)
    assert numpy.abs(slerp(a, b, weight).numpy() - expected).max() < 1e-5


@given(SEEDS)
def test_its_ends_are_the_models_bit_for_bit(seed):
    a, b = pair(seed)
    a[0] = -0.0  # Which the sum of it and 0 is not.
    for weight, end in ((0.0, a), (1.0, b)):
        assert slerp(a, b, weight).numpy().tobytes() == end.numpy().tobytes()


@given(SEEDS, WEIGHTS)
def test_the_order_of_the_models_does_not_matter(seed, weight):
    a, b = pair(seed)
    assert torch.allclose(slerp(a, b, weight), slerp(b, a, 1 - weight), atol=1e-5, rtol=0)


def test_orthogonal_unit_vectors_meet_on_the_diagonal():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    # cos 45 = sin 45 = 0.70711; a third of the way is 30 degrees: cos 30, sin 30.
    assert slerp(a, b, 0.5).tolist() == pytest.approx([0.70711, 0.70711], abs=1e-5)
    assert slerp(a, b, 1 / 3).tolist() == pytest.approx([0.86603, 0.5], abs=1e-5)
    # Norms stay in: of 2a the first part is twice as long.
    assert slerp(2 * a, b, 0.5).tolist() == pytest.approx([1.41421, 0.70711], abs=1e-5)


@given(SEEDS)
def test_slerp_keeps_a_common_norm_where_the_mean_loses_some(seed):
    a, b = pair(seed)
    a, b = a / a.norm(), b / b.norm()
    similarity = cosine(a, b)
    assert similarity is not None
    assert float(slerp(a, b, 0.5).norm()) == pytest.approx(1, abs=1e-5)
    # Half the diagonal of a rhombus: cos(w / 2) = sqrt((1 + cos w) / 2).
    assert float(weighted_sum([a, b], (0.5, 0.5)).norm()) == pytest.approx(
        math.sqrt((1 + similarity) / 2), abs=1e-5
    )


@pytest.mark.parametrize("second", [[2.0, 0.0], [-3.0, 0.0], [0.0, 0.0], [1.0, 0.03], [-1.0, 0.03]])
def test_tensors_on_one_line_and_zeros_are_interpolated_linearly(second):
    a, b = torch.tensor([1.0, 0.0]), torch.tensor(second)
    # 1 / sqrt(1 + 0.0009) = 0.99955 is beyond 0.9995.
    assert torch.equal(slerp(a, b, 0.25), 0.75 * a + 0.25 * b)


def test_the_switch_to_linear_is_a_small_step():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.032])  # Its cosine is 0.99949.
    found = slerp(a, b, 0.5)
    assert not torch.equal(found, 0.5 * a + 0.5 * b)
    assert torch.allclose(found, 0.5 * a + 0.5 * b, atol=2e-4)


@given(SEEDS)
def test_a_cosine_is_that_of_float64(seed):
    a, b = pair(seed)
    x, y = (numpy.asarray(each, dtype=numpy.float64) for each in (a, b))
    expected = x @ y / numpy.linalg.norm(x) / numpy.linalg.norm(y)
    assert cosine(a, b) == pytest.approx(expected, abs=1e-12)
    assert cosine(a.view(4, 6), b.view(4, 6)) == cosine(a, b)
    # Squares of these are beyond float32.
    assert cosine(a * 1e-30, b * 1e30) == pytest.approx(expected, abs=1e-6)
    assert cosine(a, torch.zeros(24)) is None


def test_a_cosine_counts_every_chunk(monkeypatch):
    a, b = pair(0)
    expected = cosine(a, b)
    monkeypatch.setattr("llmkd.merging.methods.CHUNK", 7)
    assert cosine(a, b) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=5), SEEDS)
def test_a_normalized_average_of_equal_models_is_the_model(weights, seed):
    model, _ = pair(seed)
    shares = coefficients(Linear(kind="linear", weights=weights), len(weights), 1.0)
    assert torch.allclose(weighted_sum([model] * len(weights), shares), model, rtol=1e-6)


def test_linear_divides_by_the_sum_of_the_weights_or_does_not():
    linear = Linear(kind="linear", weights=[1.0, 3.0])
    assert coefficients(linear, 2, 0.0) == (0.25, 0.75)
    assert coefficients(linear.model_copy(update={"normalize": False}), 2, 0.0) == (1.0, 3.0)
    for normalize in (True, False):
        equal = Linear(kind="linear", normalize=normalize)
        assert coefficients(equal, 4, 0.0) == (0.25, 0.25, 0.25, 0.25)


@given(SEEDS, st.lists(st.floats(-1, 1), min_size=2, max_size=2))
def test_task_arithmetic_adds_what_each_model_learned(seed, weights):
    base, first = pair(seed, dtype=torch.float64)
    second, _ = pair(seed + 1, dtype=torch.float64)
    method = TaskArithmetic(kind="task_arithmetic", base="b", weights=weights)
    found = weighted_sum([base, first, second], coefficients(method, 3, None))
    expected = base + weights[0] * (first - base) + weights[1] * (second - base)
    assert torch.allclose(found, expected, atol=1e-12)


def test_task_arithmetic_of_one_model_gives_base_and_model_bit_for_bit():
    base, model = pair(3)
    for weight, expected in ((0.0, base), (1.0, model)):
        method = TaskArithmetic(kind="task_arithmetic", base="b", weights=[weight])
        found = weighted_sum([base, model], coefficients(method, 2, None))
        assert found.numpy().tobytes() == expected.numpy().tobytes()
    whole = TaskArithmetic(kind="task_arithmetic", base="b")
    assert coefficients(whole, 3, None) == (-1.0, 1.0, 1.0)


def test_slerp_weighs_the_second_model():
    # At 60 degrees: sin 45 / sin 60 = 0.81650, sin 15 / sin 60 = 0.29886.
    found = coefficients(Slerp(kind="slerp", weight=0.25), 2, 0.5)
    assert found == pytest.approx((0.81650, 0.29886), abs=1e-5)
