"""What is known of rows: how many, and how long."""

from dataclasses import dataclass, replace

from llmkd.check.facts import Fact, value_of

NOT_LOOKED_AT = Fact(None, "not known", "the rows were not looked at")


@dataclass(frozen=True)
class RowLength:
    """Tokens of one row, as it is and as it is trained on."""

    whole: int
    cut: int
    side: int = 0
    """What is read at once, where that is not the whole row: of an encoder and a decoder, what the one
    that reads more reads; of two sequences, the longer one."""


@dataclass(frozen=True)
class DataFacts:
    """What is known of the rows that a stage reads."""

    rows: Fact
    tokens_per_row: Fact
    """Their mean, after rows were cut."""
    longest: Fact
    """Tokens of the longest, after it was cut."""
    truncated: Fact
    """The share of rows that are cut."""
    dropped: Fact = NOT_LOOKED_AT
    """The share of rows left out: cut, they would have no token to train on."""
    longest_side: Fact = NOT_LOOKED_AT
    """Tokens of the longest prompt or completion, where an encoder and a decoder read one each, or of
    the longest sequence, where a row has two; 0 where rows are read whole."""


def kept_facts(lengths: list[RowLength], num_read: int, rows: Fact, known: Fact) -> DataFacts:
    """By the lengths of the rows that stay of those read."""
    cut = [length.cut for length in lengths]
    num_cut = sum(length.cut < length.whole for length in lengths)
    if len(lengths) < num_read:
        left = round(value_of(rows) * len(lengths) / num_read)
        exactness = rows.exactness if known.exactness == "exact" else "estimate"
        rows = Fact(left, exactness, f"{rows.how}, without those dropped")
    return DataFacts(
        rows,
        replace(known, value=round(sum(cut) / len(cut), 4)),
        replace(known, value=max(cut)),
        replace(known, value=round(num_cut / num_read, 4), unit="share"),
        replace(known, value=round(1 - len(lengths) / num_read, 4), unit="share"),
        replace(known, value=max(length.side for length in lengths)),
    )
