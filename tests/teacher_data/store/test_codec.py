"""Round trips, by laws; blobs that are none; one value by hand."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llmkd.teacher_data.captured import SampledPositions, TopKPositions
from llmkd.teacher_data.store.codec import decode, encode

SCORES = st.floats(-60, 30, width=32) | st.just(-np.inf)


def normalised(scores):
    scores = scores.astype(np.float64)
    with np.errstate(divide="ignore"):
        return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def top_k(log_probs, k, *, stride=1):
    """The k likeliest, in their order, of ids that are `stride` apart."""
    ids = np.argsort(-log_probs, 1, kind="stable")[:, :k]
    others = np.exp(log_probs)
    np.put_along_axis(others, ids, 0, 1)
    with np.errstate(divide="ignore"):
        tail = np.log(others.sum(1)).astype(np.float32)
    kept = np.take_along_axis(log_probs, ids, 1).astype(np.float32)
    label = log_probs[:, 0].astype(np.float32)
    return TopKPositions((ids * stride).astype(np.int32), kept, tail, label)


@st.composite
def top_ks(draw):
    vocab_size = draw(st.integers(1, 12))
    shape = draw(st.integers(0, 5)), vocab_size
    scores = draw(hnp.arrays(np.float32, shape, elements=SCORES))
    scores[:, draw(st.integers(0, vocab_size - 1))] = 0.0  # Not all are ruled out.
    k = draw(st.integers(0, vocab_size))
    return top_k(normalised(scores), k, stride=draw(st.integers(1, 25_000)))


@st.composite
def samples(draw):
    p, k = draw(st.integers(0, 5)), draw(st.integers(0, 6))
    counts = draw(hnp.arrays(np.int32, (p, k), elements=st.integers(0, 300)))
    ids = [draw(st.permutations(range(k))) for _ in range(p)]
    ids = np.array(ids, np.int32).reshape(p, k) * draw(st.integers(1, 60_000))
    entropy, label = draw(hnp.arrays(np.float32, (2, p), elements=st.floats(0, 12.5, width=32)))
    return SampledPositions(ids, counts, entropy, -label)


def by_id(ids, values):
    order = np.argsort(ids, 1)
    return np.take_along_axis(ids, order, 1), np.take_along_axis(values, order, 1)


def as_dicts(drawn):
    rows = zip(drawn.token_ids.tolist(), drawn.counts.tolist(), strict=True)
    return [{i: n for i, n in zip(ids, counts, strict=True) if n} for ids, counts in rows]


def assert_half_precision(found, exact):
    # Eleven significant bits, and nothing below 2**-24.
    np.testing.assert_allclose(found, exact, rtol=2**-11, atol=2**-25)


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@given(top_ks())
def test_float32_keeps_every_bit(top):
    found = decode(encode(top, precision="float32"))
    ids, log_probs = by_id(top.token_ids, top.log_probs)
    assert same_bits(found.token_ids, ids)
    assert same_bits(found.log_probs, log_probs)
    assert same_bits(found.tail_log_prob, top.tail_log_prob)
    assert same_bits(found.label_log_prob, top.label_log_prob)


def test_float32_keeps_what_no_distribution_has():
    odd = np.array([[np.nan, -0.0, np.inf, 1e-40]], np.float32)
    top = TopKPositions(np.arange(4, dtype=np.int32)[None], odd, odd[0, :1], odd[0, 1:2])
    found = decode(encode(top, precision="float32"))
    assert same_bits(found.log_probs, odd)
    assert same_bits(found.tail_log_prob, odd[0, :1])
    assert same_bits(found.label_log_prob, odd[0, 1:2])


@given(top_ks())
def test_quantised_keeps_differences_within_half_a_step_and_what_is_ruled_out(top):
    found = decode(encode(top, precision="quantised"))
    ids, log_probs = by_id(top.token_ids, top.log_probs)
    assert same_bits(found.token_ids, ids)
    for exact, kept in zip(log_probs, found.log_probs, strict=True):
        is_possible = exact > -np.inf
        assert ((kept > -np.inf) == is_possible).all()
        if is_possible.any():
            least = exact[is_possible].argmin()
            exact, kept = (x[is_possible] - x[is_possible][least] for x in (exact, kept))
            assert np.abs(exact - kept).max() <= 1 / 16 + 1e-4


@given(top_ks())
def test_what_was_quantised_sums_to_one(top):
    found = decode(encode(top, precision="quantised"))
    mass = np.exp(found.log_probs).sum(1) + np.exp(found.tail_log_prob)
    np.testing.assert_allclose(mass, 1, atol=1e-6)


@given(top_ks())
def test_the_tail_and_the_label_are_kept_finely(top):
    found = decode(encode(top, precision="quantised"))
    for exact, kept in zip(top.tail_log_prob, found.tail_log_prob, strict=True):
        # The log-odds are within 1/512 nat, and a log-probability moves by less than its odds do.
        assert exact == kept or abs(exact - kept) <= 1 / 512 + 1e-4
    assert_half_precision(found.label_log_prob, top.label_log_prob)


@given(top_ks(), st.sampled_from(["quantised", "float32"]))
def test_encoding_what_was_decoded_gives_the_same_bytes(top, precision):
    content = encode(top, precision=precision)
    assert encode(decode(content), precision=precision) == content


@given(samples())
def test_samples_keep_tokens_and_counts(drawn):
    content = encode(drawn, precision="quantised")
    found = decode(content)
    assert as_dicts(found) == as_dicts(drawn)
    assert found.counts.sum(1).tolist() == drawn.counts.sum(1).tolist()
    assert found.token_ids.min(initial=0) >= 0
    assert found.token_ids.max(initial=0) <= drawn.token_ids.max(initial=0)
    assert_half_precision(found.entropy, drawn.entropy)
    assert_half_precision(found.label_log_prob, drawn.label_log_prob)
    assert encode(found, precision="quantised") == content


@given(st.lists(top_ks(), min_size=1, max_size=5), st.sampled_from(["quantised", "float32"]))
def test_rows_decoded_together_are_those_decoded_alone(tops, precision):
    k = min(top.token_ids.shape[1] for top in tops)
    blobs = [encode(first(k, top), precision=precision) for top in tops]
    assert_joined(decode(*blobs), [decode(blob) for blob in blobs])


def first(k, top):
    kept = {"token_ids": top.token_ids[:, :k], "log_probs": top.log_probs[:, :k]}
    return replace(top, **kept, tail_log_prob=np.zeros_like(top.tail_log_prob))


@given(st.lists(samples(), min_size=1, max_size=5))
def test_samples_decoded_together_are_those_decoded_alone(rows):
    blobs = [encode(drawn, precision="quantised") for drawn in rows]
    parts, found = [decode(blob) for blob in blobs], decode(*blobs)
    assert as_dicts(found) == [tokens for part in parts for tokens in as_dicts(part)]
    for name in ("entropy", "label_log_prob"):
        assert same_bits(getattr(found, name), np.concatenate([getattr(x, name) for x in parts]))


def assert_joined(found, parts):
    for name, values in vars(found).items():
        assert same_bits(values, np.concatenate([getattr(part, name) for part in parts]))


def test_rows_that_do_not_go_together_are_refused():
    kinds = blobs()
    with pytest.raises(ValueError, match=r"kinds \[1, 2\]"):
        decode(kinds["quantised"], kinds["float32"])
    other_k = encode(top_k(np.log(np.full((1, 4), 0.25)), 3), precision="quantised")
    with pytest.raises(ValueError, match="dimension"):
        decode(kinds["quantised"], other_k)


def test_the_bytes_of_one_row_are_not_taken_for_those_of_the_next():
    # The sizes that two headers claim are off by 8 bytes, one up and one down.
    longer, shorter = (bytearray(blobs()["quantised"]) for _ in range(2))
    longer[10] += 8
    shorter[10] -= 8
    with pytest.raises(ValueError, match="blob"):
        decode(bytes(longer), bytes(shorter))


def test_a_position_by_hand():
    # p = 1/2, 1/4 and a tail of 1/4. ln 2 = 0.693 is 5.5 steps of 1/8: 6, a ratio of e^0.75 = 2.117.
    # The tail's log-odds, ln(1/3) = -1.0986, are -281.2 steps of 1/256: -281, a tail of 0.250179.
    # The rest, 0.749821, is split 2.117 to 1: 0.509262 and 0.240559.
    log_probs = np.log(np.array([[0.25, 0.5]], np.float32))
    quarter = np.log(np.array([0.25], np.float32))
    top = TopKPositions(np.array([[7, 3]], np.int32), log_probs, quarter, quarter)
    found = decode(encode(top, precision="quantised"))
    assert found.token_ids.tolist() == [[3, 7]]
    np.testing.assert_allclose(np.exp(found.log_probs), [[0.509262, 0.240559]], atol=2e-6)
    np.testing.assert_allclose(np.exp(found.tail_log_prob), [0.250179], atol=2e-6)
    # The nearest float16 of -1.386294.
    assert found.label_log_prob.tolist() == [-1.38671875]


def test_padding_of_samples_is_left_out():
    ids = np.array([[5, 0, 2], [9, 8, 7]], np.int32)
    counts = np.array([[1, 0, 4], [0, 2, 0]], np.int32)
    zeros = np.zeros(2, np.float32)
    found = decode(encode(SampledPositions(ids, counts, zeros, zeros), precision="quantised"))
    assert found.counts.tolist() == [[4, 1], [2, 0]]
    assert found.token_ids.tolist() == [[2, 5], [8, 8]]


@pytest.mark.parametrize("precision", ["quantised", "float32"])
def test_a_large_vocabulary_as_a_whole_survives(precision):
    log_probs = normalised(np.random.default_rng(0).standard_normal((2, 300_000)) * 3)
    found = decode(encode(top_k(log_probs, 300_000), precision=precision))
    assert (found.token_ids == np.arange(300_000)).all()
    assert (found.tail_log_prob == -np.inf).all()
    assert np.abs(found.log_probs - log_probs).max() <= (
        1 / 8 if precision == "quantised" else 1e-6
    )


def test_masked_logits_far_below_all_others_are_kept_as_nearly_impossible():
    least = np.finfo(np.float32).min
    top = TopKPositions(
        np.array([[1, 2, 3]], np.int32),
        np.log(np.array([[0.5, 0.5, 1]], np.float32)) + np.array([[0, 0, least]], np.float32),
        np.array([-np.inf], np.float32),
        np.array([least], np.float32),
    )
    found = decode(encode(top, precision="quantised"))
    np.testing.assert_allclose(np.exp(found.log_probs[0, :2]), 0.5, rtol=1e-6)
    np.testing.assert_allclose(found.log_probs[0, 2], -1000, atol=1)
    assert found.label_log_prob.tolist() == [-np.inf]


def test_what_is_nearly_impossible_is_not_ruled_out_nor_the_other_way_round():
    # Tokens without mass, at the first position; a tail, and tokens, of next to none at the others.
    log_probs = np.array([[-np.inf, -np.inf], [-0.5, -1], [-400, -401]], np.float32)
    tail = np.array([0, -400, 0], np.float32)
    top = TopKPositions(np.array([[1, 2]] * 3, np.int32), log_probs, tail, tail)
    found = decode(encode(top, precision="quantised"))
    assert (found.log_probs == -np.inf).tolist() == [[True, True], [False, False], [False, False]]
    assert found.tail_log_prob[[0, 2]].tolist() == [0, 0]
    # Odds are kept to 32766/256 nats, 128 near enough; the masses there are below 1e-55.
    np.testing.assert_allclose(found.tail_log_prob[1], -127.992, atol=1e-3)
    np.testing.assert_allclose(np.logaddexp(*found.log_probs[2]), -127.992, atol=1e-3)


@pytest.mark.parametrize(
    ("log_probs", "tail"),
    [([0, np.nan], -1), ([0, np.inf], -1), ([0, -1], np.nan), ([-np.inf, -np.inf], -np.inf)],
)
def test_what_is_no_distribution_is_not_quantised(log_probs, tail):
    log_probs = np.array([log_probs], np.float32)
    tail = np.array([tail], np.float32)
    top = TopKPositions(np.array([[0, 1]], np.int32), log_probs, tail, tail)
    with pytest.raises(ValueError, match="NaN, infinite, or all -inf"):
        encode(top, precision="quantised")


def test_a_token_that_comes_twice_is_a_mistake():
    twice = TopKPositions(
        np.array([[4, 4]], np.int32), np.zeros((1, 2), np.float32), *np.zeros((2, 1), np.float32)
    )
    with pytest.raises(AssertionError, match="twice"):
        encode(twice, precision="float32")


def blobs():
    log_probs = normalised(np.random.default_rng(0).standard_normal((6, 40)) * 3)
    top = top_k(log_probs, 7, stride=1000)
    counts = np.arange(42, dtype=np.int32).reshape(6, 7) % 5
    drawn = SampledPositions(top.token_ids, counts, -top.label_log_prob, top.label_log_prob)
    return {
        "quantised": encode(top, precision="quantised"),
        "float32": encode(top, precision="float32"),
        "sampled": encode(drawn, precision="quantised"),
    }


@pytest.mark.parametrize("kind", blobs())
def test_a_blob_that_was_cut_anywhere_or_goes_on_is_refused(kind):
    content = blobs()[kind]
    for length in range(len(content)):
        with pytest.raises(ValueError, match="blob"):
            decode(content[:length])
    with pytest.raises(ValueError, match="blob"):
        decode(content + b"\0")


@pytest.mark.parametrize("kind", blobs())
def test_a_changed_byte_gives_positions_of_the_same_shape_or_a_value_error(kind):
    content = bytearray(blobs()[kind])
    refused = 0
    for place, change in product(range(len(content)), (1, 128, 255)):
        content[place] ^= change
        try:
            found = decode(bytes(content))
            assert len(found.token_ids) == len(found.label_log_prob) == 6
        except ValueError:
            refused += 1
        content[place] ^= change
    assert refused > 3 * 14  # Every byte of the header, at least.


@pytest.mark.parametrize("kind", blobs())
def test_every_number_of_the_header_is_held_against_the_rest(kind):
    content = bytearray(blobs()[kind])
    for place, change in product(range(14), (1, 2, 8)):
        content[place] ^= change
        with pytest.raises(ValueError, match="blob"):
            decode(bytes(content))
        content[place] ^= change


def test_an_unknown_kind_or_version_is_named():
    content = blobs()["quantised"]
    with pytest.raises(ValueError, match="kind 77"):
        decode(b"\x4d" + content[1:])
    with pytest.raises(ValueError, match="version 9; this program reads version 1"):
        decode(content[:1] + b"\x09" + content[2:])


def test_a_few_bytes_that_claim_to_be_many_take_no_memory():
    content = blobs()["quantised"]
    with pytest.raises(ValueError, match="cannot hold"):
        decode(content[:10] + b"\xff\xff\xff\xff" + content[14:])


def test_a_view_into_a_larger_buffer_is_read_where_it_lies():
    content = blobs()["sampled"]
    found = decode(memoryview(b"xyz" + content + b"xyz")[3:-3])
    assert as_dicts(found) == as_dicts(decode(content))
