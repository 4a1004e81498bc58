"""The parts of a recipe that run code of its author's, which may do whatever the user may."""

import shlex
from dataclasses import dataclass

from llmkd.recipe.base import RecipePart, parts_of
from llmkd.recipe.curation_steps import VerifyCommandStep
from llmkd.recipe.rewards import FunctionReward
from llmkd.recipe.yaml_places import Key


@dataclass(frozen=True)
class ForeignCode:
    """What a recipe runs with `--allow-code` only."""

    key: Key
    """Where the recipe names it."""
    shown: str
    """The program with its arguments, or the function."""
    files: dict[str, str]
    """The paths of its files, each by how it is written."""


def foreign_code(value: RecipePart | list[RecipePart], key: Key = ()) -> list[ForeignCode]:
    """All of it within a stage, or any other part of a recipe, in the order written.

    Args:
        value: What is looked through.
        key: Where it stands.
    """
    found = list[ForeignCode]()
    for place, part in parts_of(value, key):
        match part:
            case VerifyCommandStep():
                shown = shlex.join(part.command)
                found.append(ForeignCode((*place, "command"), shown, part.files))
            case FunctionReward():
                found.append(ForeignCode((*place, "function"), part.function, part.files))
            case _:
                pass
    return found
