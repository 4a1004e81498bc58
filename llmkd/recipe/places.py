"""Problems with a recipe, and where in it they are."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmkd.errors import InputError
from llmkd.recipe.yaml_places import Key, dotted

DEFAULT = "default"
"""The origin of a value that nobody wrote."""

SHORTEST_BEGINNING = 4
"""Letters from which on the beginning of a name stands for it."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    key: Key
    """Where, in the full form of the recipe (`stages.NAME...`)."""
    message: str
    """`<what was wrong>; <what to write instead>`."""


@dataclass(frozen=True)
class Override:
    """`key=value` after the recipe."""

    key: Key
    text: str


@dataclass
class Source:
    """Where a recipe's values come from: lines of a file, and overrides."""

    file: str
    lines: dict[Key, int]
    overrides: Sequence[Override] = ()
    prefix: Key = field(default=())
    """`stages.NAME` where the recipe left it out, as one with a single stage may."""
    written: Any = None
    """The file's values with the overrides in them, as written: no defaults."""

    def origin(self, key: Key) -> str:
        """Where the value at a key comes from.

        Args:
            key: In the full form of the recipe (`stages.NAME...`).

        Returns:
            `FILE:LINE` (through an alias, the line of what it stands for), `override KEY=VALUE`, or
            `default`.
        """
        key = self.written_key(key)
        if not _is_in(self.written, key):
            return DEFAULT
        override = self.override_of(key)
        if override is not None:
            return f"override {override.text}"
        return f"{Path(self.file).name}:{self.line(key)}"

    def written_key(self, key: Key) -> Key:
        """The key as the user writes it."""
        return key[len(self.prefix) :] if key[: len(self.prefix)] == self.prefix else key

    def override_of(self, key: Key) -> Override | None:
        """The override that the value at `key` comes from; the last one rules."""
        for override in reversed(self.overrides):
            if key[: len(override.key)] == override.key:
                return override
        return None

    def line(self, key: Key) -> int:
        """The line of `key`, or of the nearest thing around it."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.lines:
                return self.lines[key[:length]]
        return 1

    def error(self, problems: Iterable[Problem], others: Sequence[str] = ()) -> InputError:
        """All problems as one error: by line, then overrides, then `others` as they are."""
        in_file: list[tuple[int, str]] = []
        in_overrides: list[str] = []
        for problem in problems:
            key = self.written_key(problem.key)
            override = self.override_of(key)
            if override is None:
                in_file.append((self.line(key), f"{dotted(key)}: {problem.message}"))
            else:
                name = "" if key == override.key else f" {dotted(key)}"
                in_overrides.append(f"override {override.text}{name}: {problem.message}")
        in_file.sort(key=lambda item: item[0])
        width = max((len(str(line)) for line, _ in in_file), default=0)
        lines = [f"{self.file}:{line:<{width}} {text}" for line, text in in_file]
        return InputError([*lines, *in_overrides, *others])


def name_problems(terms: Iterable[Any], key: Key) -> Iterator[Problem]:
    """Terms of one name, which metrics could not tell apart.

    Args:
        terms: Each with a `kind`, which is its name where it has no `name`.
        key: Of their list.
    """
    seen: dict[str, int] = {}
    for index, term in enumerate(terms):
        name = term.name or term.kind
        if name in seen:
            yield Problem(
                (*key, index),
                f"is called `{name}`, as {key[-1]}.{seen[name]} is; give one of them another `name`",
            )
        seen.setdefault(name, index)


def _is_in(value: Any, key: Key) -> bool:
    if not key:
        return True
    if isinstance(value, str):  # A bare name stands for the data set of that name.
        return key == ("dataset_name",)
    inside: Any = dict(enumerate(value)) if isinstance(value, list) else value
    return isinstance(inside, dict) and key[0] in inside and _is_in(inside[key[0]], key[1:])


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant, if any is close."""
    by_lower_case = {known.lower(): known for known in reversed(list(names))}
    lower = name.lower()
    if len(lower) >= SHORTEST_BEGINNING:
        for known in reversed(by_lower_case):
            if known.startswith(lower):
                return by_lower_case[known]
    found = difflib.get_close_matches(lower, by_lower_case, n=1, cutoff=0.65)
    return by_lower_case[found[0]] if found else None


def meant(name: str, names: Iterable[str]) -> str:
    """`did you mean ...?` where a name is close, else the names that there are."""
    names = list(names)
    near = nearest(name, names)
    if near:
        return f"did you mean `{near}`?"
    return f"write one of {', '.join(names)}" if names else "there are none"
