"""How many rows a stage trains on, and how long they are in tokens."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from llmkd.check.facts import Fact, NotKnownError, known, value_of
from llmkd.check.row_facts import DataFacts, RowLength, kept_facts
from llmkd.check.rows import LocalRows, Row, read_rows
from llmkd.check.vocabulary import ADDITION, Tokenizer
from llmkd.errors import DataError
from llmkd.models.agreement import PACKED_PAIRS, not_pairs
from llmkd.recipe.base import referenced_stage
from llmkd.recipe.data import (
    AdditionTask,
    DatasetRows,
    DatasetSource,
    Mixture,
    Sequences,
    StoreRows,
)

MOST_CHARACTERS = 250_000
"""Of the sampled rows, so that tokenizing them takes a moment."""
CHARACTERS_PER_TOKEN = 16
"""Text beyond so many times `max_length` is not tokenized: it would be cut anyway."""
TOKENS_PER_MESSAGE = 8
"""What a chat template writes around a message, about."""

# As llmkd.data.addition splits them; with more digits there are more than one may ask for.
NUM_SUMS = {
    1: {"train": 41, "unlabelled": 40, "validation": 11, "test": 8},
    2: {"train": 3_994, "unlabelled": 4_105, "validation": 958, "test": 943},
    3: {"train": 399_538, "unlabelled": 400_323, "validation": 99_912, "test": 100_227},
}
MOST_SUMS = 5_000_000

Lookup = Callable[[str], "DataFacts"]
"""From the name of a generate stage to what its data set will be."""


class BadSourcesError(Exception):
    """Sources of a mixture that no run could train on, with one error for each."""

    def __init__(self, errors: list[DataError]):
        self.errors = errors
        super().__init__("; ".join(map(str, errors)))


def data_facts(
    source: AdditionTask | DatasetSource | Mixture | StoreRows,
    tokenizer: Tokenizer | str,
    generated: Lookup,
) -> DataFacts:
    """What is known of a stage's data.

    Args:
        source: The recipe's `data`.
        tokenizer: The student's, or why it is not known.
        generated: Asked for the data of `stage:NAME`.

    Raises:
        DataError: No run could train on it.
        BadSourcesError: No run could train on some sources of a mixture.
    """
    if isinstance(source, AdditionTask):
        return _of_task(source, tokenizer)
    if isinstance(source, Mixture):
        return _mixed(source, _parts(source, tokenizer, generated))
    if isinstance(source, StoreRows):
        return _of_store(source, tokenizer, generated)
    return _of_source(source, source, tokenizer, generated)


def _of_store(source: StoreRows, tokenizer: Tokenizer | str, generated: Lookup) -> DataFacts:
    num_sides = 2 if _is_paired(tokenizer) else 1
    longest = Fact(num_sides * source.max_length, "at most", "data.max_length")
    unknown = Fact(None, "not known", "kept in the store")
    stage = referenced_stage(source.path)
    if stage is None:
        return DataFacts(unknown, longest, longest, unknown)
    facts = generated(stage)
    is_longer = facts.longest.value is None or facts.longest.value > value_of(longest)
    tokens = longest if is_longer else facts.longest
    return DataFacts(known(lambda: first(facts.rows, source.num_examples)), tokens, tokens, unknown)


def _parts(mixture: Mixture, tokenizer: Tokenizer | str, generated: Lookup) -> list[DataFacts]:
    parts: list[DataFacts] = []
    errors: list[DataError] = []
    for index, source in enumerate(mixture.sources):
        try:
            parts.append(_of_source(source, mixture, tokenizer, generated))
        except DataError as error:
            error.key = ("sources", index, *error.key)
            errors.append(error)
    if errors:
        raise BadSourcesError(errors)
    return parts


def prompt_length(source: AdditionTask | DatasetRows, tokenizer: Tokenizer | str) -> Fact:
    """Tokens of the longest prompt that a generate stage reads, by its first rows."""
    if isinstance(source, AdditionTask):
        sample: list[Row] = [{"prompt": _sum(source.digits)[0]}]
    else:
        sample = read_rows(source, "prompt").sample
    if isinstance(tokenizer, str):
        raise NotKnownError(tokenizer)
    longest = max(tokenizer.count(_text(row["prompt"])[:MOST_CHARACTERS], True) for row in sample)
    if isinstance(source, AdditionTask) and tokenizer.name == ADDITION.name:
        return Fact(longest, "exact", "every sum has as many")
    return Fact(longest, "estimate", f"longest of the first {len(sample)}")


def prompt_rows(source: AdditionTask | DatasetRows) -> Fact:
    """How many prompts a generate stage reads."""
    if isinstance(source, AdditionTask):
        return num_sums(source)
    return first(read_rows(source, "prompt").num_rows, source.num_examples)


def _of_source(
    source: Any, sequences: Sequences, tokenizer: Tokenizer | str, generated: Lookup
) -> DataFacts:
    if isinstance(source, AdditionTask):
        return _of_task(source, tokenizer)
    num_sides = 2 if _is_paired(tokenizer) else 1
    longest = Fact(num_sides * sequences.max_length, "at most", "data.max_length")
    stage = referenced_stage(source.dataset_name)
    if stage is not None:
        facts = generated(stage)
        tokens = facts.longest
        if tokens.value is None or tokens.value > value_of(longest):
            tokens = longest
        rows = known(lambda: first(facts.rows, source.num_examples))
        return DataFacts(rows, tokens, tokens, Fact(None, "not known", "generated by then"))
    try:
        local = read_rows(source)
    except NotKnownError as error:
        unknown = Fact(None, "not known", str(error))
        rows = unknown
        if source.num_examples is not None:
            rows = Fact(source.num_examples, "at most", "num_examples")
        return DataFacts(rows, longest, longest, unknown)
    rows = first(local.num_rows, source.num_examples)
    if isinstance(tokenizer, str):
        return DataFacts(rows, longest, longest, Fact(None, "not known", tokenizer))
    return _measured(local, rows, sequences, tokenizer)


def _measured(
    local: LocalRows, rows: Fact, sequences: Sequences, tokenizer: Tokenizer
) -> DataFacts:
    if _is_paired(tokenizer):
        _refuse_what_is_no_pair(local, sequences)
    lengths: list[RowLength] = []
    num_read = num_characters = 0
    for row in islice(local.sample, int(value_of(rows))):
        texts = _shortened(row, sequences.max_length * CHARACTERS_PER_TOKEN)
        num_characters += sum(map(len, texts.values()))
        if num_read and num_characters > MOST_CHARACTERS:
            break
        num_read += 1
        length = _row_length(texts, row, tokenizer, sequences)
        if length is not None:
            lengths.append(length)
    is_all = rows.exactness == "exact" and rows.value == num_read
    has_messages = "messages" in local.sample[0]
    exactness = "exact" if is_all and not has_messages else "estimate"
    how = "all rows tokenized" if is_all else f"the first {num_read} rows tokenized"
    if has_messages:
        how += ", without their chat template"
    if not lengths:
        return _nothing_left(sequences.max_length, how, is_sure=exactness == "exact")
    return kept_facts(lengths, num_read, rows, Fact(None, exactness, how))


def _refuse_what_is_no_pair(local: LocalRows, sequences: Sequences) -> None:
    if sequences.packing:
        raise DataError("packing", PACKED_PAIRS)
    if "completion" not in local.sample[0]:
        raise DataError("dataset_name", not_pairs("data", next(iter(local.sample[0]))))


def _nothing_left(max_length: int, how: str, *, is_sure: bool) -> DataFacts:
    if is_sure:
        raise DataError(
            "max_length",
            f"no row has a token to train on within {max_length} tokens; write a larger max_length",
        )
    unknown = Fact(None, "not known", f"{how}, and none has a token to train on")
    return DataFacts(unknown, unknown, unknown, unknown, Fact(1.0, "estimate", how, "share"))


def _of_task(task: AdditionTask, tokenizer: Tokenizer | str) -> DataFacts:
    if isinstance(tokenizer, str):
        unknown = Fact(None, "not known", tokenizer)
        return DataFacts(num_sums(task), unknown, unknown, unknown)
    length = _num_tokens(*_sum(task.digits), tokenizer) + 1
    is_own = tokenizer.name == ADDITION.name
    how = "every sum has as many" if is_own else "by one sum; others may differ"
    tokens = Fact(length, "exact" if is_own else "estimate", how)
    facts = DataFacts(
        num_sums(task), tokens, tokens, Fact(0.0, "exact", "a task is not cut", "share")
    )
    if not _is_paired(tokenizer):
        return facts
    read, written = tokenizer.lengths_of_sides(*_sum(task.digits))
    return replace(facts, longest_side=replace(tokens, value=max(read, written + 1)))


def num_sums(task: AdditionTask) -> Fact:
    """How many sums a task makes.

    Raises:
        DataError: More are asked for than there are.
    """
    most = NUM_SUMS.get(task.digits, {}).get(task.split, MOST_SUMS)
    if task.num_examples > most:
        raise DataError(
            "num_examples",
            f"{task.num_examples} sums of {task.digits} digits were asked for, and split "
            f"{task.split} gives {most} at most; write num_examples: {most} or less",
        )
    return Fact(task.num_examples, "exact", "data.num_examples")


def _sum(digits: int) -> tuple[str, str]:
    """The prompt and the completion of one sum; all have the same form."""
    zeros = "0" * digits
    return f"{zeros}+{zeros}=", "0+0+0=00;" * digits + f"#{zeros}0"


def _mixed(mixture: Mixture, parts: Sequence[DataFacts]) -> DataFacts:
    """Means by the shares of the sources; rows as many as there are without repeating any."""
    largest = max(source.weight for source in mixture.sources)
    weights = [source.weight / largest for source in mixture.sources]
    shares = [weight / sum(weights) for weight in weights]

    def mean(facts: Sequence[Fact], unit: Any = "") -> Fact:
        values = [value_of(fact) for fact in facts]
        total = sum(share * value for share, value in zip(shares, values, strict=True))
        return Fact(round(total, 4 if unit else 1), _loosest(facts), "mean by weight", unit)

    def rows() -> Fact:
        if mixture.num_examples is not None:
            return Fact(mixture.num_examples, "exact", "data.num_examples")
        counts = [part.rows for part in parts]
        pairs = zip(map(value_of, counts), shares, strict=True)
        total = min(count / share for count, share in pairs if share)
        return Fact(int(total), _loosest(counts), "without repeating a row")

    def longest(facts: Sequence[Fact]) -> Fact:
        return Fact(max(map(value_of, facts)), _loosest(facts), "of all sources")

    return DataFacts(
        known(rows),
        known(lambda: mean([part.tokens_per_row for part in parts])),
        known(lambda: longest([part.longest for part in parts])),
        known(lambda: mean([part.truncated for part in parts], "share")),
        known(lambda: mean([part.dropped for part in parts], "share")),
        known(lambda: longest([part.longest_side for part in parts])),
    )


def _loosest(facts: Sequence[Fact]) -> Any:
    kinds = [fact.exactness for fact in facts]
    return next((kind for kind in ("at most", "estimate") if kind in kinds), "exact")


def first(rows: Fact, num_examples: int | None) -> Fact:
    """How many rows `num_examples` leaves."""
    if num_examples is None or value_of(rows) < num_examples:
        return rows
    exactness = "at most" if rows.exactness == "at most" else "exact"
    return Fact(num_examples, exactness, "num_examples")


def _row_length(
    texts: dict[str, str], row: Row, tokenizer: Tokenizer, sequences: Sequences
) -> RowLength | None:
    """None of a row that is left out: cut, it has no token that is predicted."""
    most, end = sequences.max_length, int(sequences.append_eos)
    if _is_paired(tokenizer):
        read, written = tokenizer.lengths_of_sides(texts["prompt"], texts["completion"])
        sides = (read, written + end)
        cut = [min(side, most) for side in sides]
        return RowLength(sum(sides), sum(cut), max(cut)) if min(sides) > 0 else None
    start, length = _length(texts, row, tokenizer)
    length += end
    # As llmkd.data.tokenize: a row stays where a token that is predicted does.
    return RowLength(length, min(length, most)) if max(start, 1) < min(length, most) else None


def _is_paired(tokenizer: Tokenizer | str) -> bool:
    """Whether an encoder and a decoder read prompt and completion."""
    return not isinstance(tokenizer, str) and tokenizer.decoder is not None


def _num_tokens(prompt: str, completion: str, tokenizer: Tokenizer) -> int:
    if _is_paired(tokenizer):
        return sum(tokenizer.lengths_of_sides(prompt, completion))
    return tokenizer.length_of_example(prompt, completion)


def _length(texts: dict[str, str], row: Row, tokenizer: Tokenizer) -> tuple[int, int]:
    """The token where training begins, and all tokens."""
    if "text" in texts:
        return 0, tokenizer.length_of_text(texts["text"])
    if "prompt" in texts:
        start = tokenizer.length_of_prompt(texts["prompt"])
        return start, start + tokenizer.count(texts["completion"], False)
    num_messages = len(row["messages"]) if isinstance(row["messages"], list) else 1
    return 0, tokenizer.count(texts["messages"], False) + TOKENS_PER_MESSAGE * num_messages


def _shortened(row: Row, longest: int) -> dict[str, str]:
    return {column: _text(value)[:longest] for column, value in row.items()}


def _text(value: Any) -> str:
    """A column's text; of messages, what they say, joined."""
    if isinstance(value, list):
        said = (message.get("content") for message in value if isinstance(message, dict))
        return "\n".join(text for text in said if isinstance(text, str))
    return value if isinstance(value, str) else ""
