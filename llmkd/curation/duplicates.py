"""`duplicates`: the first of rows that are equal, or nearly so."""

from collections.abc import Callable

from llmkd.curation.minhash import NearDuplicates, text_hash
from llmkd.curation.rows import completion_of, grouped, prompt_key, whole_text
from llmkd.curation.tally import Row, Stream, Tally
from llmkd.recipe.curation_steps import DuplicatesStep


class ExactDuplicates:
    """Texts that were seen, to be asked for equal ones.

    The index grows by about 100 bytes for each different text: its hash of 64 bits in a set. Of n texts,
    two different ones share a hash with a probability of n^2 / 2^65: 3e-8 for a million.
    """

    def __init__(self) -> None:
        self._hashes: set[int] = set()

    def has_seen(self, text: str) -> bool:
        """Whether a text equals one before; if not, it is remembered."""
        key = text_hash(text)
        if key in self._hashes:
            return True
        self._hashes.add(key)
        return False


def duplicates(rows: Stream, step: DuplicatesStep, tally: Tally) -> Stream:
    """Rows without those that had an equal before; of prompts, all answers to the first stay."""
    if step.match == "near":
        has_seen = NearDuplicates(step.threshold, step.ngram).has_seen
    else:
        has_seen = ExactDuplicates().has_seen
    text_of = _TEXTS[step.of]
    groups = grouped(rows) if step.of == "prompt" else ([row] for row in rows)
    for group in groups:
        if has_seen(text_of(group[0])):
            tally.drop("duplicate" if step.match == "exact" else "near duplicate", len(group))
        else:
            yield from group


_TEXTS: dict[str, Callable[[Row], str]] = {
    "row": whole_text,
    "prompt": prompt_key,
    "completion": completion_of,
}
