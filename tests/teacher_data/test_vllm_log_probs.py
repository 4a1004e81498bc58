import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkd.errors import InputError
from llmkd.teacher_data.vllm_log_probs import of_spans, positions_of_rows, rows_of_mappings

VOCABULARY = 12


def as_vllm(log_probs, labels, top_k):
    """The rows that vLLM makes: the token that is there, then the likeliest."""
    likeliest = np.argsort(-log_probs, axis=1)[:, :top_k]
    token_ids = np.concatenate([np.array(labels)[:, None], likeliest], axis=1)
    return token_ids, np.take_along_axis(log_probs, token_ids, axis=1).astype(np.float32)


def log_softmax(logits):
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


@given(
    st.lists(
        st.lists(st.floats(-15, 15), min_size=VOCABULARY, max_size=VOCABULARY, unique=True),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, VOCABULARY),
    st.integers(0, VOCABULARY - 1),
)
def test_the_tail_is_the_mass_of_all_that_is_not_kept(logits, top_k, label):
    log_probs = log_softmax(np.array(logits))
    rows = as_vllm(log_probs, [label] * len(logits), top_k)
    found = positions_of_rows(*rows, VOCABULARY, top_k)
    assert found.token_ids.shape == (len(logits), top_k)
    for row, whole in enumerate(log_probs):
        kept = found.token_ids[row]
        assert len(set(kept)) == top_k
        np.testing.assert_allclose(found.log_probs[row], whole[kept], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found.label_log_prob[row], whole[label], rtol=1e-6, atol=1e-6)
        rest = np.exp(np.delete(whole, kept)).sum()
        # What float32 leaves of 1 - p: absolute, not relative.
        np.testing.assert_allclose(np.exp(found.tail_log_prob[row]), rest, atol=2e-6)
        assert (found.tail_log_prob[row] == -np.inf) or top_k < VOCABULARY


def test_a_label_beyond_the_likeliest_becomes_no_kept_token():
    # Probabilities 1/2, 1/4, 1/8, 1/8; two are kept, so 1/4 is left; the label is the last.
    log_probs = np.log([[0.5, 0.25, 0.125, 0.125]])
    found = positions_of_rows(*as_vllm(log_probs, [3], 2), 4, 2)
    assert found.token_ids.tolist() == [[0, 1]]
    np.testing.assert_allclose(found.tail_log_prob, np.log(0.25), rtol=1e-6)
    np.testing.assert_allclose(found.label_log_prob, np.log(0.125), rtol=1e-6)


@pytest.mark.parametrize(
    ("label", "kept", "expected"),
    [
        # All of 1 is kept as far as float32 tells, but the label, of e^-20, is not among it.
        ((9, -20.0), [(0, 0.0), (1, -25.0)], -20.0),
        # Rounding leaves 1e-7 that cannot be: ten tokens have e^-25 each at most.
        ((0, -1e-7), [(0, -1e-7), (1, -25.0)], -25.0 + np.log(10)),
        # Nothing is left, and nothing is known of it.
        ((0, 1e-7), [(0, 1e-7), (1, -25.0)], -np.inf),
    ],
)
def test_a_tail_that_rounding_hides_keeps_within_what_is_known(label, kept, expected):
    token_ids, log_probs = zip(label, *kept, strict=True)
    found = positions_of_rows(np.array([token_ids]), np.array([log_probs]), VOCABULARY, 2)
    np.testing.assert_allclose(found.tail_log_prob, [expected], rtol=1e-6)


@given(
    st.lists(st.floats(-15, 15), min_size=VOCABULARY, max_size=VOCABULARY, unique=True),
    st.integers(0, 5),
    st.data(),
)
def test_padded_rows_leave_the_distribution_over_the_tokens(logits, num_padded, data):
    size = VOCABULARY - num_padded
    top_k, label = data.draw(st.integers(1, size)), data.draw(st.integers(0, size - 1))
    rows = as_vllm(log_softmax(np.array([logits])), [label], top_k + num_padded)
    found = positions_of_rows(*rows, size, top_k)
    # What is not among the likeliest is not known to be there, so it stays where it is.
    dropped = [token for token in rows[0][0, 1:] if token >= size]
    known = np.array(logits)
    known[dropped] = -np.inf
    (whole,) = log_softmax(known[None])
    (kept,) = found.token_ids
    assert len(set(kept)) == top_k
    assert max(kept) < size
    assert np.delete(whole[:size], kept).max(initial=-np.inf) <= whole[kept].min() + 1e-6
    # What float32 leaves of the tokens' mass, where padded rows have nearly all.
    error = 1e-5 + 1e-6 / np.exp(log_softmax(np.array([logits]))[0, :size]).sum()
    np.testing.assert_allclose(np.exp(found.log_probs[0]), np.exp(whole[kept]), rtol=error)
    np.testing.assert_allclose(np.exp(found.label_log_prob[0]), np.exp(whole[label]), rtol=error)
    rest = np.exp(np.delete(whole, kept)).sum()
    most = (size - top_k) * np.exp(whole[kept].min())
    np.testing.assert_allclose(np.exp(found.tail_log_prob[0]), min(rest, most), atol=error)


def test_a_padded_row_takes_its_mass_with_it():
    # Probabilities 1/2, 1/4, 1/8, 1/8 of which the first is padding's, so all others double; two
    # are kept, so 1/4 is left. vLLM names the label first, here the least likely token.
    ids = np.array([[2, 2, 3, 0, 1]])
    log_probs = np.log([[0.125, 0.125, 0.5, 0.25, 0.125]])
    found = positions_of_rows(ids, log_probs, 3, 2)
    assert found.token_ids.tolist() == [[0, 2]]
    np.testing.assert_allclose(found.log_probs, np.log([[0.5, 0.25]]), rtol=1e-6)
    np.testing.assert_allclose(found.tail_log_prob, np.log([0.25]), rtol=1e-6)
    np.testing.assert_allclose(found.label_log_prob, np.log([0.25]), rtol=1e-6)


def test_padding_that_rounding_gives_all_mass_leaves_what_is_seen_of_the_tokens():
    ids, log_probs = np.array([[1, 5, 0, 1]]), np.array([[-31.0, 1e-7, -30.0, -31.0]])
    found = positions_of_rows(ids, log_probs, 5, 2)
    expected = np.array([-30.0, -31.0]) - np.logaddexp(-30.0, -31.0)
    np.testing.assert_allclose(found.log_probs, [expected], rtol=1e-6)
    np.testing.assert_allclose(found.label_log_prob, expected[1:], rtol=1e-6)


def test_padding_that_leaves_too_few_tokens_is_refused():
    rows = np.array([[0, 7, 6, 0]]), np.log([[0.1, 0.5, 0.3, 0.1]])
    assert positions_of_rows(*rows, 6, 1).token_ids.tolist() == [[0]]
    with pytest.raises(InputError, match=r"2 of the 3 likeliest .* so that 2 cannot be kept"):
        positions_of_rows(*rows, 6, 2)


def test_nothing_is_made_of_no_positions():
    found = positions_of_rows(np.zeros((0, 4), int), np.zeros((0, 4)), VOCABULARY, 3)
    assert found.token_ids.shape == (0, 3)
    assert found.tail_log_prob.shape == (0,)


@pytest.mark.parametrize("vocabulary", [2, VOCABULARY])
def test_numbers_that_are_no_log_probabilities_are_refused(vocabulary):
    rows = np.array([[0, 0, 1]]), np.array([[1.5, 1.5, 1.0]])
    with pytest.raises(InputError, match=r"add up to 7\.2.*--logprobs-mode raw_logprobs"):
        positions_of_rows(*rows, vocabulary, 2)


def test_mappings_become_rows_with_the_label_first():
    mappings = [{7: -3.0, 2: -1.0, 5: -2.0}, {5: -2.0, 2: -9999.0}]
    token_ids, log_probs = rows_of_mappings([7, 5], mappings, 2)
    assert token_ids.tolist() == [[7, 2, 5], [5, 5, 2]]
    assert log_probs.tolist() == [[-3.0, -1.0, -2.0], [-2.0, -2.0, -np.inf]]


def test_spans_cover_their_places_in_order():
    assert of_spans([2, 4, 7, 8]) == [2, 3, 7]
    assert of_spans([]) == []
