"""What a check finds out: numbers that say how they are known, and the reasons where they are not."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from llmkd.recipe.places import Problem

Exactness = Literal["exact", "estimate", "at most", "at least", "not known"]
Unit = Literal["", "bytes", "share"]


class NotKnownError(Exception):
    """Something cannot be known without loading a model or asking a hub; the message says why."""


@dataclass(frozen=True)
class Fact:
    """One number about a stage."""

    value: int | float | None
    """None where it is not known."""
    exactness: Exactness
    how: str = ""
    """Where the number comes from, or why there is none and what to do for it."""
    unit: Unit = ""
    parts: dict[str, int] = field(default_factory=dict)
    """What the number is the sum of."""

    def plus(self, part: str, size: int) -> "Fact":
        """With another part; of nothing, as it is."""
        if not size or self.value is None:
            return self
        return replace(self, value=self.value + size, parts={**self.parts, part: size})


@dataclass
class StageFacts:
    """All that is known of one stage before it runs."""

    kind: str
    facts: dict[str, Fact] = field(default_factory=dict)
    verdict: str = "not known"
    """Whether the stage's memory `fits`, is `tight`, or `does not fit`."""
    warnings: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def as_data(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        facts = {
            name: {key: value for key, value in asdict(fact).items() if value not in ("", {})}
            for name, fact in self.facts.items()
        }
        return {"kind": self.kind, "memory_verdict": self.verdict, "facts": facts}


def known(compute: Callable[[], Fact]) -> Fact:
    """The fact, or the reason why there is none."""
    try:
        return compute()
    except NotKnownError as error:
        return Fact(None, "not known", str(error))
    except OSError as error:
        return Fact(None, "not known", f"{error.filename}: {error.strerror}")
    except OverflowError:
        return Fact(None, "not known", "the recipe's numbers are too large to multiply")


def value_of(fact: Fact) -> Any:
    """The number.

    Raises:
        NotKnownError: There is none.
    """
    if fact.value is None:
        raise NotKnownError(fact.how)
    return fact.value


def shown_bytes(value: Any) -> str:
    """`1.2 GiB`, `34 MiB`."""
    return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"
