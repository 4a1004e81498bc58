"""What no field of a reward can know by itself."""

import ast
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from llmkd.errors import InputError
from llmkd.recipe.local_paths import missing_path
from llmkd.recipe.places import Problem, meant, name_problems
from llmkd.recipe.rewards import (
    AnswerReward,
    FormatReward,
    FunctionReward,
    LengthReward,
    MultipleChoiceReward,
    Reward,
)
from llmkd.recipe.yaml_places import Key


def reward_problems(rewards: Sequence[Reward], key: Key) -> Iterator[Problem]:
    """What is wrong with rewards. No code of theirs is run.

    Args:
        rewards: Those that are added up.
        key: Of their list.
    """
    yield from name_problems(rewards, key)
    for index, reward in enumerate(rewards):
        for field, message in _of_reward(reward):
            yield Problem((*key, index, field), message)


def correct_reward(rewards: Sequence[Reward], name: str | None = None) -> int:
    """The index of the reward that is 1 for right responses and 0 for wrong ones.

    Args:
        rewards: All that there are.
        name: Of the one; None takes the first that compares answers.

    Raises:
        InputError: There is none. Without a key, `<what is wrong>; <what to write instead>`.
    """
    names = [reward.name or reward.kind for reward in rewards]
    if name is not None and name not in names:
        raise InputError(f"no reward is called `{name}`; {meant(name, names)}")
    for index, reward in enumerate(rewards):
        is_asked = isinstance(reward, AnswerReward | MultipleChoiceReward)
        if names[index] == name or (name is None and is_asked):
            return index
    raise InputError(
        "no reward says whether a response is right; add one of kind exact_match, number, "
        f"math_verify or multiple_choice, or name the one that does: {', '.join(names)}"
    )


def _of_reward(reward: Reward) -> Iterator[tuple[str, str]]:
    match reward:
        case AnswerReward(kind="math_verify") if find_spec("math_verify") is None:
            yield (
                "kind",
                "math_verify is not installed; run pip install 'llmkd[rl]', or write kind: number",
            )
        case LengthReward(max_length=whole, soft_length=part) if part > whole:
            yield "soft_length", f"{part} is more than max_length: {whole}; write {whole} or less"
        case FormatReward():
            yield from _pattern_problems(reward.pattern)
        case FunctionReward():
            yield from _function_problems(reward)
        case _:
            pass


def _pattern_problems(pattern: str) -> Iterator[tuple[str, str]]:
    try:
        re.compile(pattern, re.DOTALL)
    except (re.error, OverflowError, RecursionError) as error:
        yield "pattern", f"is no regular expression of Python's ({error}); mend it"


def _function_problems(reward: FunctionReward) -> Iterator[tuple[str, str]]:
    """Of a function in a file: whether it is there, as far as its text tells."""
    name = reward.function.rpartition(":")[2]
    for written, path in reward.files.items():
        if message := missing_path(written):
            yield "function", message
            return
        try:
            names = _names_in(ast.parse(Path(path).read_bytes()))
        except (OSError, SyntaxError, ValueError) as error:
            yield "function", f"{written} cannot be read as Python ({error}); mend it"
            return
        if name not in names and "*" not in names:
            yield "function", f"{written} has no `{name}`; {meant(name, names)}"


def _names_in(tree: ast.Module) -> list[str]:
    """All names that a file gives to something, wherever."""
    found = list[str]()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.append(name)
            case ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                found.append(name)
            case ast.alias(name=imported, asname=name):
                found.append(name or imported)
            case _:
                pass
    return list(dict.fromkeys(found))
