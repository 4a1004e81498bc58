"""A recipe's rewards as functions of a batch of rollouts, in the form that TRL calls.

Each takes `completions`, texts or conversations, `completion_ids`, and every column of the data by
its name, a list each; it gives a number per rollout.
"""

import re
from collections.abc import Callable, Sequence
from string import ascii_uppercase
from typing import Any, assert_never

from llmkd.errors import DataError
from llmkd.recipe.rewards import (
    AnswerReward,
    FormatReward,
    LengthReward,
    MultipleChoiceReward,
    Reward,
)
from llmkd.rewards.exact import Grade, exact_match
from llmkd.rewards.maths import math_verify, number
from llmkd.rewards.multiple_choice import multiple_choice

RewardFunction = Callable[..., list[float]]
_GRADERS: dict[str, Callable[[str, str], Grade]] = {
    "exact_match": exact_match,
    "number": number,
    "math_verify": math_verify,
}


def reward_function(reward: Reward) -> RewardFunction:
    """The function of a reward, without its weight; TRL logs it as `rewards/KIND`.

    Raises:
        DataError: By the function, where the data lack a column that it reads.
    """

    def rewards(
        completions: Sequence[Any], completion_ids: Sequence[list[int]], **columns: Any
    ) -> list[float]:
        rows = range(len(completions))
        return [
            _reward(reward, _text(completions[i]), completion_ids[i], _Row(columns, i))
            for i in rows
        ]

    rewards.__name__ = reward.kind
    return rewards


class _Row:
    """One row of the data, by the names of its columns."""

    def __init__(self, columns: dict[str, list[Any]], number: int):
        self.columns, self.number = columns, number

    def __call__(self, name: str, key: str) -> Any:
        value = self.columns.get(name, [None] * (self.number + 1))[self.number]
        if value is None:
            raise DataError(
                "keep_columns",
                f"a reward reads the column {name!r}, and a row has none; name it there, or write "
                f"another rewards.{key}",
            )
        return value


def _reward(reward: Reward, text: str, token_ids: Sequence[int], row: _Row) -> float:
    match reward:
        case AnswerReward():
            right = row(reward.answer_column, "answer_column")
            return float(_is_right(reward, text, str(right)))
        case MultipleChoiceReward():
            choices = row(reward.choices_column, "choices_column")
            labels = ascii_uppercase[: len(choices)]
            right = row(reward.answer_column, "answer_column")
            return float(multiple_choice(text, right, labels=labels, choices=choices).is_right)
        case FormatReward():
            return float(re.fullmatch(reward.pattern, text, re.DOTALL) is not None)
        case LengthReward():
            over = len(token_ids) - (reward.max_length - reward.soft_length)
            return -min(max(over / reward.soft_length, 0.0), 1.0)
        case unknown:
            assert_never(unknown)


def _is_right(reward: AnswerReward, text: str, right: str) -> bool:
    if reward.answer_marker is not None:
        _, mark, text = text.rpartition(reward.answer_marker)
        if not mark:
            return False
    return _GRADERS[reward.kind](text, right).is_right


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else completion[-1]["content"]
