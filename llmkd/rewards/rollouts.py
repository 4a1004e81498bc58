"""A recipe's rewards as functions of a batch of rollouts, in the form that TRL calls.

Each takes `prompts`, `completions`, texts or conversations, `completion_ids`, and every column of the
data by its name, a list each; it gives a number, or None, per rollout.
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, assert_never

from llmkd.recipe.rewards import (
    AnswerReward,
    FormatReward,
    FunctionReward,
    LengthReward,
    MultipleChoiceReward,
    Reward,
)
from llmkd.recipe.yaml_places import Key
from llmkd.rewards.exact import exact_match
from llmkd.rewards.guarded import Guard
from llmkd.rewards.maths import number
from llmkd.rewards.multiple_choice import multiple_choice
from llmkd.rewards.rows import Row, text_of
from llmkd.rewards.worker import Worker

RewardFunction = Callable[..., list[float | None]]
KEY = ("reward_funcs",)
SECONDS = 20.0
"""For a rollout and a reward of ours. Math-verify gives up by itself, after 5 s, where it can."""
STATE = ("global_step", "max_steps", "epoch")
"""What a function of the user's sees of `trainer_state`."""


def reward_functions(rewards: Sequence[Reward], key: Key = KEY) -> list[RewardFunction]:
    """The functions, in order and without their weights; TRL logs each as `rewards/NAME/mean`.

    Those of the user, and those of ours that odd text can keep busy for ever, run in a process each,
    which is started here and ends with its function.

    Args:
        rewards: Those of a stage.
        key: Of their list, for errors.

    Raises:
        RewardError: A function cannot be loaded; and by the functions, where one fails.
        DataError: By the functions, where the data lack what they read.
    """
    return [reward_function(reward, (*key, index)) for index, reward in enumerate(rewards)]


def reward_function(reward: Reward, key: Key = (*KEY, 0)) -> RewardFunction:
    """One of them; see `reward_functions`."""
    match reward:
        case FunctionReward():
            function = _function(reward, key)
        case FormatReward(pattern=pattern):
            worker = Worker("llmkd.rewards.forms:have_form", {"pattern": pattern}, SECONDS)
            function = _guarded(reward, worker, key)
        case AnswerReward(kind="math_verify"):
            function = _guarded(
                reward, Worker("llmkd.rewards.formulas:are_right", {}, SECONDS), key
            )
        case AnswerReward() | MultipleChoiceReward() | LengthReward():
            function = _plain(reward, key)
        case unknown:
            assert_never(unknown)
    function.__name__ = reward.name or reward.kind
    return function


def _unheard(name: str, value: Any) -> None:
    """Logs nothing."""


def _function(reward: FunctionReward, key: Key) -> RewardFunction:
    worker = Worker(reward.function, reward.arguments, reward.timeout_s)
    name, is_forgiven = reward.name or reward.kind, reward.on_error == "zero"
    guard = Guard(worker, key, name, reward.function, is_forgiven)
    guard.start()

    def rewards(
        *,
        trainer_state: Any = None,
        log_extra: Any = _unheard,
        log_metric: Any = _unheard,
        environments: Any = None,
        **rows: list[Any],
    ) -> list[float | None]:
        # Plain data: the history of all that was logged is not to be sent each time.
        state = SimpleNamespace(**{name: getattr(trainer_state, name, None) for name in STATE})
        log = {"log_extra": log_extra, "log_metric": log_metric}
        found = guard.together(rows, log, trainer_state=state)
        return guard.settled(found, rows, log_metric)

    return rewards


def _guarded(reward: AnswerReward | FormatReward, worker: Worker, key: Key) -> RewardFunction:
    """Asks about one rollout at a time, so that the one that takes long is known."""
    name = reward.name or reward.kind
    guard = Guard(worker, key, name, called=reward.kind, is_forgiven=True)
    guard.start()

    def judged(text: str, row: Row) -> float | str | None:
        if isinstance(reward, FormatReward):
            return guard.alone({"texts": [text]})
        right, said = row.answer(reward.answer_column), _marked(reward, text)
        return 0.0 if said is None else guard.alone({"texts": [said], "references": [right]})

    def rewards(
        *, completions: Sequence[Any], log_metric: Any = _unheard, **columns: Any
    ) -> list[float | None]:
        texts = [*map(text_of, completions)]
        found = [judged(text, Row(columns, index, key)) for index, text in enumerate(texts)]
        rows = {name: column for name, column in columns.items() if isinstance(column, list)}
        return guard.settled(found, rows | {"completions": texts}, log_metric)

    return rewards


def _plain(reward: AnswerReward | MultipleChoiceReward | LengthReward, key: Key) -> RewardFunction:
    def rewards(
        *, completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **columns: Any
    ) -> list[float | None]:
        return [
            _reward(
                reward, text_of(completion), len(completion_ids[index]), Row(columns, index, key)
            )
            for index, completion in enumerate(completions)
        ]

    return rewards


def _reward(
    reward: AnswerReward | MultipleChoiceReward | LengthReward, text: str, length: int, row: Row
) -> float:
    match reward:
        case AnswerReward(answer_column=column):
            is_number = reward.kind == "number"
            right, said = row.answer(column, is_number=is_number), _marked(reward, text)
            grade = number if is_number else exact_match
            return float(said is not None and grade(said, right).is_right)
        case MultipleChoiceReward():
            labels, choices = row.choices(reward.choices_column)
            right = row.right_choice(reward.answer_column, labels, choices)
            return float(multiple_choice(text, right, labels=labels, choices=choices).is_right)
        case LengthReward():
            over = length - (reward.max_length - reward.soft_length)
            return -min(max(over / reward.soft_length, 0.0), 1.0)
        case unknown:
            assert_never(unknown)


def _marked(reward: AnswerReward, text: str) -> str | None:
    """Where the answer is looked for; None where the text lacks the mark."""
    if reward.answer_marker is None:
        return text
    _, mark, rest = text.rpartition(reward.answer_marker)
    return rest if mark else None
