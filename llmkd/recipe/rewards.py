"""What a rollout is rewarded for."""

from typing import Annotated, Literal

from pydantic import Field

from llmkd.recipe.base import RecipePart


class RewardTerm(RecipePart):
    """What every reward has."""

    weight: float = 1.0
    """What it is multiplied by before rewards are added up."""


class AnswerReward(RewardTerm):
    """1 where the response has the row's answer, else 0."""

    kind: Literal["exact_match", "number", "math_verify"]
    """How the two are compared: to the letter, as numbers, or as formulas."""
    answer_column: str = "answer"
    """The column of the data that has the right answer, or a text that marks it."""
    answer_marker: str | None = Field(default=None, min_length=1)
    """The answer is what follows the last of these, and a response without any has none; null looks
    for it as evaluations do."""


class MultipleChoiceReward(RewardTerm):
    """1 where the response makes the right choice, else 0. Choices are labelled A, B, C and so on."""

    kind: Literal["multiple_choice"]
    answer_column: str = "answer"
    """The column of the data that has the label of the right choice."""
    choices_column: str = "choices"
    """The column that has the texts of the choices, a list."""


class FormatReward(RewardTerm):
    """1 where the whole response has a given form, else 0."""

    kind: Literal["format"]
    pattern: str = Field(min_length=1)
    """A regular expression of Python's; `.` is any character, a new line too."""


class LengthReward(RewardTerm):
    """0 up to a length, from there down to -1 in a straight line, and -1 for anything longer.

    References:
        Yu et al. 2025, "DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
        https://arxiv.org/abs/2503.14476, equation 13.
    """

    kind: Literal["length"]
    max_length: int = Field(gt=0)
    """Tokens of a response that earns -1; the end-of-text token counts."""
    soft_length: int = Field(gt=0)
    """The last so many of these, over which the reward falls; at most `max_length`."""


Reward = Annotated[
    AnswerReward | MultipleChoiceReward | FormatReward | LengthReward,
    Field(discriminator="kind"),
]
