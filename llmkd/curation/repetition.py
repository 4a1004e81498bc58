"""`repetition`: completions that go round in circles."""

from collections.abc import Sequence

from llmkd.curation.rows import completion_of
from llmkd.curation.tally import Row, Stream, Tally, judged
from llmkd.recipe.curation_steps import RepetitionStep


def repetition(rows: Stream, step: RepetitionStep, tally: Tally) -> Stream:
    """Rows of whose completion no larger share than allowed is repeated."""

    def judge(row: Row) -> Row | str:
        text = completion_of(row)
        units = text.split() if step.unit == "words" else text
        is_loop = repeated_share(units, step.ngram) > step.max_share
        return "repeats itself" if is_loop else row

    return judged(rows, judge, tally)


def repeated_share(units: Sequence[str], ngram: int) -> float:
    """The share of a text that lies within n-grams which occur twice or more, from 0 to 1.

    Every occurrence counts, the first one too, and a word in several such n-grams counts once. Rae et
    al. 2021 (https://arxiv.org/abs/2112.11446, table A1) count characters of words, over each n from 5
    to 10 with its own bound; here it is one n, and words.

    Args:
        units: Words, or characters.
        ngram: How many make an n-gram.

    Example:
        a b a b a b c d: of its 2-grams, `a b` occurs 3 times and `b a` twice, and they cover the
        first 6 of 8 words.

        >>> repeated_share("a b a b a b c d".split(), 2)
        0.75
    """
    first_seen: dict[tuple[str, ...], int] = {}
    is_covered = bytearray(len(units))
    for start in range(len(units) - ngram + 1):
        gram = tuple(units[start : start + ngram])
        before = first_seen.setdefault(gram, start)
        if before != start:
            is_covered[start : start + ngram] = b"\1" * ngram
            is_covered[before : before + ngram] = b"\1" * ngram
    return sum(is_covered) / len(units) if units else 0.0
