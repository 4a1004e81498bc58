"""What is known of labelled data before it is read by a run: its labels and its lengths."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice

from llmkd.check.facts import Fact, NotKnownError
from llmkd.check.lengths import MOST_CHARACTERS, first
from llmkd.check.row_facts import DataFacts, RowLength, kept_facts
from llmkd.check.rows import MOST_SAMPLED_ROWS, LocalRows, read_rows
from llmkd.check.tasks import NOT_CUT, num_requests
from llmkd.check.vocabulary import INTENTS, Tokenizer
from llmkd.data.columns import Need
from llmkd.data.intents import LABELS, make_rows, most_words
from llmkd.data.labels import chosen_labels, given_labels, label_text, one_output
from llmkd.recipe.data import Classification, IntentTask, LabelledRows, is_regression

MOST_ROWS = 200_000
"""Whose labels are looked at."""


@dataclass(frozen=True)
class FoundLabels:
    """The labels of rows."""

    names: Collection[str]
    is_all: bool
    """Whether every row was looked at."""


def labels_of_rows(source: Classification) -> FoundLabels:
    """The labels that the rows have.

    Raises:
        NotKnownError: They are not on this machine.
        DataError: No run could train on them.
    """
    if isinstance(source, IntentTask):
        return FoundLabels(LABELS, is_all=True)
    local = read_rows(source, "labelled", most=source.num_examples or MOST_ROWS)
    num_rows = num_labelled_rows(source, local)
    return FoundLabels(
        {label_text(row["label"]) for row in local.sample},
        is_all=num_rows.exactness == "exact" and num_rows.value == len(local.sample),
    )


def checked_labels(
    source: Classification, teacher: Sequence[str] | None, student: Sequence[str] | None
) -> list[str]:
    """What the outputs of a stage's models will stand for.

    Raises:
        NotKnownError: It cannot be known yet.
        DataError: Labels do not fit each other; see `chosen_labels` and `one_output`.
    """
    if is_regression(source):
        return one_output(teacher)
    given = given_labels(source)
    try:
        found = labels_of_rows(source)
    except NotKnownError:
        if given is None and teacher is None:
            raise
        found = FoundLabels((), is_all=True)
    if given is None and teacher is None and not found.is_all:
        raise NotKnownError("there are too many rows to look at the labels of all")
    return chosen_labels(given, teacher, student, found.names)


def labelled_facts(
    source: Classification, tokenizer: Tokenizer | str, need: Need = "labelled"
) -> DataFacts:
    """Rows and lengths of labelled data, or of its texts.

    Raises:
        DataError: No run could train on it.
        NotKnownError: It is not on this machine.
    """
    if isinstance(source, IntentTask):
        return _of_task(source, tokenizer)
    local = read_rows(source, need)
    rows = num_labelled_rows(source, local)
    if isinstance(tokenizer, str):
        longest = Fact(source.max_length, "at most", "data.max_length")
        return DataFacts(rows, longest, longest, Fact(None, "not known", tokenizer))
    lengths = _lengths(local, source, tokenizer)
    is_all = rows.exactness == "exact" and rows.value == len(lengths)
    how = "all rows tokenized" if is_all else f"the first {len(lengths)} rows tokenized"
    known = Fact(None, "exact" if is_all else "estimate", how)
    cut = [RowLength(length, min(length, source.max_length)) for length in lengths]
    return kept_facts(cut, len(lengths), rows, known)


def num_labelled_rows(source: Classification, local: LocalRows | None = None) -> Fact:
    """How many rows there are.

    Raises:
        DataError: A task's split has fewer than asked for.
        NotKnownError: They are not on this machine.
    """
    if isinstance(source, LabelledRows):
        local = local or read_rows(source, "labelled")
        return first(local.num_rows, source.num_examples)
    return num_requests(source)


def _lengths(local: LocalRows, source: LabelledRows, tokenizer: Tokenizer) -> list[int]:
    lengths: list[int] = []
    num_characters = 0
    for row in islice(local.sample, source.num_examples):
        num_characters += len(row["text"]) + len(row.get("text_pair", ""))
        if lengths and num_characters > MOST_CHARACTERS:
            break
        length = tokenizer.count(row["text"], True)
        if "text_pair" in row:
            # The second text has an end of its own.
            length += tokenizer.count(row["text_pair"], False) + 1
        lengths.append(length)
    return lengths


def _of_task(task: IntentTask, tokenizer: Tokenizer | str) -> DataFacts:
    rows = num_labelled_rows(task)
    if isinstance(tokenizer, str):
        unknown = Fact(None, "not known", tokenizer)
        return DataFacts(rows, unknown, unknown, NOT_CUT)
    few = min(task.num_examples, MOST_SAMPLED_ROWS)
    sample = make_rows(task.model_copy(update={"num_examples": few}), seed=0)
    lengths = [tokenizer.count(row["text"], True) for row in sample]
    mean = Fact(round(sum(lengths) / few, 4), "estimate", f"mean of {few} requests")
    if tokenizer.name == INTENTS.name:
        longest = Fact(most_words() + 2, "at most", "words of the longest request")
    else:
        longest = Fact(max(lengths), "estimate", f"longest of {few} requests")
    return DataFacts(rows, mean, longest, NOT_CUT)


def refuse_unknown_rows(
    source: Classification, models: Sequence[Sequence[str] | str | None]
) -> None:
    """Refuses labels, of the rows or of the recipe, that one of the models is known not to have.

    Args:
        source: The rows.
        models: The labels of each, or why they are not known.

    Raises:
        DataError: Names the first of them.
    """
    known_labels = [labels for labels in models if not isinstance(labels, str | None)]
    if is_regression(source):
        for labels in known_labels:
            one_output(labels)
        return
    try:
        found = labels_of_rows(source).names
    except NotKnownError:
        found = ()
    for labels in known_labels:
        chosen_labels(given_labels(source), labels, None, found)
