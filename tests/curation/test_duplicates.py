import json
import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkd.curation.duplicates import ExactDuplicates
from llmkd.curation.minhash import (
    NUM_HASHES,
    NearDuplicates,
    ngrams,
    rows_per_band,
    signature,
    similarity,
)
from llmkd.recipe.curation_steps import DuplicatesStep

NEAR = {"kind": "duplicates", "match": "near"}


def texts_of(found):
    return [row["text"] for row in found.rows]


def words(seed, count):
    draw = random.Random(seed)
    return [f"w{draw.randrange(10**6)}" for _ in range(count)]


def pair(jaccard, size=400, seed=0):
    """Two texts of different words, whose sets of words have this Jaccard similarity."""
    num_shared = round(2 * size * jaccard / (1 + jaccard))
    # As a list of 2 size - shared different words: the last of the one are the first of the other.
    pool = [f"{word}x{i}" for i, word in enumerate(words(seed, 2 * size - num_shared))]
    return " ".join(pool[:size]), " ".join(pool[size - num_shared :])


def exact_jaccard(first, second, ngram):
    one, other = (
        {tuple(text.split()[i : i + ngram]) for i in range(len(text.split()) - ngram + 1)}
        for text in (first, second)
    )
    return len(one & other) / len(one | other)


def test_the_first_of_equal_rows_stays(curate):
    rows = [
        {"prompt": prompt, "completion": completion}
        for prompt, completion in [("a b", "c"), ("a ", "bc"), ("a b", "c"), ("a", "c"), ("d", "c")]
    ]
    found = curate(rows, {"kind": "duplicates"})
    assert found.rows == [rows[0], rows[1], rows[3], rows[4]]
    assert found.step["dropped"] == {"duplicate": 1}
    assert curate(rows, {"kind": "duplicates", "of": "completion"}).rows == rows[:2]


def test_all_answers_to_the_first_of_equal_prompts_stay(curate):
    rows = [
        {"prompt": prompt, "completion": completion, "number": number}
        for number, prompt in enumerate("aba")
        for completion in "xy"
    ]
    found = curate(rows, {"kind": "duplicates", "of": "prompt"})
    assert found.rows == rows[:4]
    assert found.step["dropped"] == {"duplicate": 2}


def test_half_a_surrogate_pair_is_a_text_too(curate, tmp_path):
    rows = [{"text": "\ud800 a"}, {"text": "\ud800 a"}, {"text": "é"}]
    assert curate(rows, {"kind": "duplicates"}).rows == [rows[0], rows[2]]
    assert curate(rows, NEAR).rows == [rows[0], rows[2]]
    last = (tmp_path / "stage/data.jsonl").read_bytes().splitlines()[-1]
    assert last == json.dumps(rows[2], ensure_ascii=False).encode()


@pytest.mark.parametrize("jaccard", [0.0, 0.2, 0.5, 0.8, 0.95, 1.0])
def test_minhash_estimates_the_exact_jaccard_similarity(jaccard):
    estimates, exact = [], []
    for seed in range(40):
        first, second = pair(jaccard, seed=seed)
        exact.append(exact_jaccard(first, second, 3))
        one, other = (signature(ngrams(text.split(), 3)) for text in (first, second))
        estimates.append(similarity(one, other))
    errors = np.array(estimates) - np.array(exact)
    # An estimate is the mean of 128 draws that are 1 with the similarity: four standard errors.
    deviation = np.sqrt(np.mean(exact) * (1 - np.mean(exact)) / NUM_HASHES)
    assert abs(errors.mean()) <= 4 * deviation / np.sqrt(len(errors))
    assert np.abs(errors).max() <= 4.5 * deviation


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40), st.randoms())
def test_order_and_repetition_of_ngrams_change_nothing(hashes, draw):
    mixed = hashes * 2
    draw.shuffle(mixed)
    first, second = (signature(np.array(each, np.uint64)) for each in (hashes, mixed))
    assert similarity(first, second) == 1.0


def test_the_minima_of_many_ngrams_are_those_of_their_parts():
    hashes = ngrams(words(0, 9000), 2)
    whole, parts = signature(hashes), (signature(hashes[:5000]), signature(hashes[5000:]))
    assert (whole == np.minimum(*parts)).all()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_pairs_at_the_threshold_are_compared_nine_times_in_ten(threshold):
    r = rows_per_band(threshold)
    assert (1 - threshold**r) ** (128 // r) <= 0.1
    # A wider band would miss more.
    assert r == 128 or (1 - threshold ** (2 * r)) ** (128 // (2 * r)) > 0.1


def test_near_duplicates_are_found_and_others_are_not():
    found = {0.95: 0, 0.6: 0}
    for jaccard in found:
        for seed in range(50):
            index = NearDuplicates(threshold=0.8, ngram=1)
            first, second = pair(jaccard, seed=seed)
            assert not index.has_seen(first)
            found[jaccard] += index.has_seen(second)
    assert found == {0.95: 50, 0.6: 0}


def test_a_text_is_compared_with_all_before(curate):
    base = words(1, 100)
    rows = [
        {"text": " ".join(text)}
        for text in (
            base,
            words(2, 100),
            [*base[:-1], "other"],
            ["short"],
            ["short"],
            words(3, 100),
        )
    ]
    found = curate(rows, NEAR)
    assert texts_of(found) == [rows[i]["text"] for i in (0, 1, 3, 5)]
    assert found.step["dropped"] == {"near duplicate": 2}


@pytest.mark.parametrize(
    ("make", "match", "count"),
    [(ExactDuplicates, "exact", 50_000), (lambda: NearDuplicates(0.8, 1), "near", 1_000)],
)
def test_the_index_grows_by_as_much_as_it_says(make, match, count):
    stated = DuplicatesStep(kind="duplicates", match=match).bytes_per_row
    index = make()
    tracemalloc.start()
    try:
        for number in range(count):
            index.has_seen(f"text {number}")
        grown, _ = tracemalloc.get_traced_memory()
        # Of duplicates it does not grow.
        for number in range(0, count, 20):
            assert index.has_seen(f"text {number}")
        assert tracemalloc.get_traced_memory()[0] - grown < 0.01 * grown + 20_000
    finally:
        tracemalloc.stop()
    assert 0.75 * stated <= grown / count <= 1.25 * stated
