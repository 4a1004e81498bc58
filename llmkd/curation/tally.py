"""What a step counts, and what it says of rows that it cannot use."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from llmkd.errors import InputError

Row = dict[str, Any]
Stream = Iterator[Row]
Judge = Callable[[Row], Row | str]
"""From a row to the row that stays, or to the reason why none does."""


class StepError(InputError):
    """Rows that a step cannot use.

    Args:
        field: The field of the step to mend.
        message: What is wrong; what to write instead.
    """

    def __init__(self, field: str, message: str):
        self.field = field
        self.message = message
        super().__init__(f"{field}: {message}")


@dataclass
class Tally:
    """The rows that a step has seen, dropped and kept so far."""

    kind: str
    num_in: int = 0
    num_out: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Rows, by the reason why they did not stay."""
    counted: Counter[str] = field(default_factory=Counter)
    """What else the step did."""

    def entering(self, rows: Iterable[Row]) -> Stream:
        """The rows, each counted as it comes."""
        for row in rows:
            self.num_in += 1
            yield row

    def leaving(self, rows: Iterable[Row]) -> Stream:
        """The rows, each counted as it goes on."""
        for row in rows:
            self.num_out += 1
            yield row

    def drop(self, reason: str, num_rows: int = 1) -> None:
        """Counts rows that do not stay."""
        if num_rows:
            self.dropped[reason] += num_rows

    def as_data(self) -> dict[str, Any]:
        """Plain data for the manifest; the most frequent reason first."""
        return {
            "kind": self.kind,
            "num_in": self.num_in,
            "num_out": self.num_out,
            "dropped": dict(self.dropped.most_common()),
            "counted": dict(self.counted),
        }


def judged(rows: Iterable[Row], judge: Judge, tally: Tally) -> Stream:
    """The rows that a judge lets through; the reasons for the others are counted."""
    for row in rows:
        verdict = judge(row)
        if isinstance(verdict, str):
            tally.drop(verdict)
        else:
            yield verdict
