"""What a rollout is rewarded for."""

from typing import Annotated, Any, Literal

from pydantic import Field

from llmkd.recipe.base import RecipePart
from llmkd.recipe.local_paths import expanded


class RewardTerm(RecipePart):
    """What every reward has."""

    weight: float = 1.0
    """What it is multiplied by before rewards are added up."""
    name: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_]*$")
    """What metrics call it: `rewards/NAME/mean`. Default: its kind."""


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
    """1 where the response makes the right choice, else 0."""

    kind: Literal["multiple_choice"]
    answer_column: str = "answer"
    """The column of the data that has the right choice, by its label or its text."""
    choices_column: str = "choices"
    """The column that has the choices: a list of texts, called A, B, C and so on, or a mapping of
    `text` and `label`."""


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


class FunctionReward(RewardTerm):
    """What a Python function of yours gives; runs with `--allow-code` only.

    It is called as TRL calls reward functions: with `prompts`, `completions`, `completion_ids` and
    every column of the data by its name, a list each. It returns a list with a number, or None, for
    each completion.
    """

    kind: Literal["function"]
    function: str = Field(pattern=r"^[^:]+:[A-Za-z_]\w*$")
    """`FILE.py:NAME`, a path that starts at the current folder, or `MODULE:NAME`."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """What else it is called with, by name."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Seconds that one call, for a whole batch, may take; then it is killed."""
    on_error: Literal["stop", "zero"] = "stop"
    """What becomes of a completion for which it fails: the end of the training, or a reward of 0, which
    is counted as `rewards/NAME/errors`."""

    @property
    def files(self) -> dict[str, str]:
        """The path of its file, by how it is written; nothing of a module."""
        source = self.function.rpartition(":")[0]
        return {source: str(expanded(source))} if source.endswith(".py") else {}


Reward = Annotated[
    AnswerReward | MultipleChoiceReward | FormatReward | LengthReward | FunctionReward,
    Field(discriminator="kind"),
]
