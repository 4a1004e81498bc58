"""`key=value` after the recipe: dotted keys, lists by index, values read as in the file."""

import copy
import re
from collections.abc import Sequence
from typing import Any

from llmkd.errors import InputError
from llmkd.recipe.places import Override, meant
from llmkd.recipe.values import shown
from llmkd.recipe.yaml_places import Key, dotted, read_text
from llmkd.secrets import masked


def apply_overrides(data: dict[str, Any], texts: Sequence[str]) -> tuple[dict, list[Override]]:
    """A copy of `data` with the overrides in it, and the overrides; later ones rule.

    Raises:
        InputError: With every override that cannot be read or has no place to go.
    """
    data = copy.deepcopy(data)
    applied: list[Override] = []
    problems: list[str] = []
    for text in texts:
        try:
            parts, value = _read(text)
            data, key = _put(data, parts, value)
            applied.append(Override(key, masked(text)))
        except InputError as error:
            problems.extend(error.problems)
        except _NoPlaceError as error:
            problems.append(f"override {masked(text)}: {error}")
    if problems:
        raise InputError(problems)
    return data, applied


class _NoPlaceError(Exception):
    """The recipe has no place for an override."""


def _read(text: str) -> tuple[list[str], Any]:
    path, equals, value = text.partition("=")
    parts = path.strip().split(".")
    if not equals or not all(parts):
        raise InputError(f"override {masked(text)}: not in the form key=value; write e.g. seed=1")
    return parts, read_text(value, place=lambda _: f"override {masked(text)}:").value


def _put(holder: Any, parts: list[str], value: Any, done: Key = ()) -> tuple[Any, Key]:
    """Puts `value` below `holder`, which stands at `done`; returns the new holder and the key."""
    if not parts:
        return value, done
    name, rest = parts[0], parts[1:]
    where = dotted(done) or "the recipe"
    if isinstance(holder, list):
        if not re.fullmatch("[0-9]{1,9}", name) or int(name) >= len(holder):
            raise _NoPlaceError(f"{where} is a list; {_indices(holder, where)}")
        holder[int(name)], key = _put(holder[int(name)], rest, value, (*done, int(name)))
        return holder, key
    if holder is None:  # a missing mapping, or one written as null
        holder = {}
    if not isinstance(holder, dict):
        raise _NoPlaceError(f"{where} is {shown(holder)}, which holds nothing; write {where}=...")
    if done == ("stages",) and rest and name not in holder:
        raise _NoPlaceError(f"no stage is called `{name}`; {meant(name, holder)}")
    holder[name], key = _put(holder.get(name), rest, value, (*done, name))
    return holder, key


def _indices(items: list, where: str) -> str:
    if not items:
        return f"it is empty, so write {where}=[...]"
    return f"write an index from 0 to {len(items) - 1}, or the whole of it"
