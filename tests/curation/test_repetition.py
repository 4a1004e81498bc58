from hypothesis import given
from hypothesis import strategies as st

from llmkd.curation.repetition import repeated_share

WORDS = st.lists(st.sampled_from("abc"), max_size=30)


def covered(units, ngram):
    """Each word on its own: is it within an n-gram that stands elsewhere too?"""
    grams = [tuple(units[i : i + ngram]) for i in range(len(units) - ngram + 1)]
    inside = [
        any(
            grams.count(grams[i]) > 1
            for i in range(max(0, at - ngram + 1), min(at + 1, len(grams)))
        )
        for at in range(len(units))
    ]
    return sum(inside) / len(units) if units else 0.0


@given(WORDS, st.integers(1, 5))
def test_it_is_the_share_of_words_within_repeated_ngrams(units, ngram):
    assert repeated_share(units, ngram) == covered(units, ngram)


def test_loops_are_dropped_and_ordinary_texts_stay(curate):
    loop = "I add one and one. " + "so it is two " * 20
    plain = " ".join(f"word{i}" for i in range(60))
    rows = [{"prompt": "p", "completion": text} for text in (loop, plain, "two", "")]
    found = curate(rows, {"kind": "repetition"})
    assert [row["completion"] for row in found.rows] == [plain, "two", ""]
    assert found.step["dropped"] == {"repeats itself": 1}


def test_a_text_without_spaces_repeats_characters(curate):
    step = {"kind": "repetition", "unit": "characters", "ngram": 4}
    rows = [{"text": text} for text in ("1+2=3;1+2=3;1+2=3;", "7+0=07;5+1=06;#0067")]
    assert curate(rows, step).rows == rows[1:]


def test_the_bound_itself_stays(curate):
    # By hand, as in the docstring: 0.75.
    rows = [{"text": "a b a b a b c d"}]
    step = {"kind": "repetition", "ngram": 2, "max_share": 0.75}
    assert curate([*rows, {"text": "x y z"}], step).step["num_out"] == 2
    assert curate([*rows, {"text": "x y z"}], step | {"max_share": 0.74}).step["num_out"] == 1
