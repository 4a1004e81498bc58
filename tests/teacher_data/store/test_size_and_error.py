"""Bytes per token, and what quantising costs, on the benchmarks' teacher; quick forms of its targets."""

import importlib.util
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from llmkd.teacher_data.store.blob import join
from llmkd.teacher_data.store.codec import decode, encode

VOCAB_SIZE, POSITIONS, K, DRAWS = 32_000, 200, 50, 50


@pytest.fixture(scope="module")
def zipf_teacher():
    path = Path(__file__).parents[2] / "benchmarks" / "zipf_teacher.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def teacher(zipf_teacher):
    return zipf_teacher.ZipfTeacher.of_size(VOCAB_SIZE)


@pytest.fixture(scope="module")
def log_probs(teacher):
    return teacher.log_probs(POSITIONS, np.random.default_rng(0))


@pytest.fixture(scope="module")
def labels(zipf_teacher, log_probs):
    return zipf_teacher.draw_of(log_probs, 1, np.random.default_rng(1))[:, 0]


@pytest.fixture(scope="module")
def top(zipf_teacher, log_probs, labels):
    return zipf_teacher.top_k_of(log_probs, labels, K)


def test_a_set_of_tokens_has_the_probability_that_the_benchmark_says(zipf_teacher):
    small = zipf_teacher.ZipfTeacher.of_size(7)
    sets = np.array(list(combinations(range(7), 3)))
    probabilities = 0.5 ** small.set_bits(sets)
    np.testing.assert_allclose(probabilities.sum(), 1, rtol=1e-6)
    # And the likeliest set is found as often as it says.
    scores = small.log_probs(20_000, np.random.default_rng(0))
    found = np.sort(np.argsort(-scores, 1)[:, :3], 1)
    best = sets[probabilities.argmax()]
    share = (found == best).all(1).mean()
    np.testing.assert_allclose(share, probabilities.max(), atol=4 * (0.25 / 20_000) ** 0.5)


def test_the_top_50_take_little_more_than_their_entropy_and_7_bits_each(teacher, top):
    set_bytes = teacher.set_bits(top.token_ids[:40]).mean() / 8
    size = len(encode(top, precision="quantised")) / POSITIONS
    assert size <= 1.1 * (set_bytes + 7 / 8 * K)
    # The coder knows nothing of a token's frequency, so that it cannot have less than both need.
    assert size > set_bytes + 4 / 8 * K


def test_50_draws_take_at_most_40_bytes(zipf_teacher, log_probs, labels):
    draw = np.random.default_rng(2)
    drawn = zipf_teacher.sampled_of(log_probs, labels, DRAWS, draw)
    assert (drawn.counts.sum(1) == DRAWS).all()
    assert len(encode(drawn, precision="quantised")) / POSITIONS <= 40


def test_an_array_whose_values_change_along_it_is_coded_part_by_part():
    draw = np.random.default_rng(0)
    values = np.concatenate([draw.integers(4, size=4096), 4 + draw.integers(4, size=4096)])
    # Each half has 2 bits a number, 2048 bytes together; coded as one they have 3, 3072 bytes.
    assert len(join(1, (0, 0), [values.astype(np.uint8)])) < 2500


@pytest.fixture(scope="module")
def exact_and_kept(zipf_teacher):
    """Log-probabilities of k + 1 outcomes, before and after; many positions, for the mean's sake."""
    log_probs = zipf_teacher.ZipfTeacher.of_size(1000).log_probs(10_000, np.random.default_rng(4))
    top = zipf_teacher.top_k_of(log_probs, np.zeros(10_000, np.int64), K)
    order = top.token_ids.argsort(1)
    found = decode(encode(top, precision="quantised"))
    return (
        outcomes(np.take_along_axis(top.log_probs, order, 1), top.tail_log_prob),
        outcomes(found.log_probs, found.tail_log_prob),
    )


def test_quantising_costs_less_than_a_thousandth_of_a_nat(exact_and_kept):
    exact, kept = exact_and_kept
    divergence = (np.exp(exact) * (exact - kept)).sum(1)
    assert (divergence > -1e-6).all()
    assert 1e-4 < divergence.mean() < 1 / 8**2 / 24
    assert divergence.max() < 1 / 8**2 / 8  # Half of the mass up by half a step, half of it down.


def test_a_student_s_divergence_from_what_is_kept_is_that_from_the_teacher(exact_and_kept):
    exact, kept = exact_and_kept
    student = 0.8 * exact + np.random.default_rng(3).standard_normal(exact.shape)
    student -= np.log(np.exp(student).sum(1, keepdims=True))
    before, after = ((np.exp(p) * (p - student)).sum(1) for p in (exact, kept))
    assert abs((after - before).mean()) < 1e-3
    # The gradient with respect to the student's logits is q - p.
    gradient, change = np.exp(student) - np.exp(exact), np.exp(exact) - np.exp(kept)
    assert np.linalg.norm(change) < 0.05 * np.linalg.norm(gradient)
    # And what it is off by is no direction of its own.
    assert np.abs(change.mean(0)).max() < 1e-3


def outcomes(log_probs, tail_log_prob):
    """The k tokens and the tail, in float64, with a sum of 1."""
    together = np.concatenate([log_probs, tail_log_prob[:, None]], 1).astype(np.float64)
    return together - np.log(np.exp(together).sum(1, keepdims=True))
