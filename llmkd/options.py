"""Errors of a recipe that was made of a command's options, said of those. Imports no torch."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from llmkd.errors import InputError


@contextmanager
def naming_options(options: Mapping[str, str]) -> Iterator[None]:
    """A block whose errors name options where they would name a recipe's keys.

    Args:
        options: What errors say (a key such as `depth.remove_layers`, as of within its stage), to what
            the user wrote. Followed by `: VALUE` it becomes the option and its value.
    """
    try:
        yield
    except InputError as error:
        raise InputError([in_options(one, options) for one in error.problems]) from error


def in_options(problem: str, options: Mapping[str, str]) -> str:
    """An error with options in place of keys; see `naming_options`.

    Example:
        >>> in_options("num_examples: 9 are too many; write num_examples: 5", {"num_examples": "--num"})
        '--num: 9 are too many; write --num 5'
    """
    # The longest first, as one may begin another.
    keys = "|".join(map(re.escape, sorted(options, key=len, reverse=True)))
    named = rf"`?(?<![\w./-])(?:stages\.\w+\.)?({keys})(?:\.\d+)?(?![\w/-]|\.\w)`?(: (?=\S))?"

    def renamed(found: re.Match[str]) -> str:
        colon = found[2] if found.start() == 0 else found[2] and " "
        return options[found[1]] + (colon or "")

    return re.sub(named, renamed, problem)
