"""The steps of a stage that curates."""

from typing import Annotated, Literal

from pydantic import Field

from llmkd.recipe.base import RecipePart
from llmkd.recipe.reasoning import Grader


class AnswerStep(RecipePart):
    """What looks for the answer in a completion."""

    grader: Grader
    """How answers are found and compared: `number`, `math_verify`, `multiple_choice` or
    `exact_match`."""
    answer_marker: str | None = Field(default=None, min_length=1)
    """Text before the answer, such as `#`: only what follows the last one is looked at, and a
    completion without it has no answer."""
    labels: list[str] | None = Field(default=None, min_length=2)
    """All answers that there are, such as a classifier's labels: any other one is no answer. With
    `multiple_choice` they are the choices."""
    choices_column: str = "choices"
    """Of `multiple_choice` without `labels`: the column with the choices, a list of texts, or a
    mapping of `text` and `label`."""
    labels_column: str | None = None
    """The column with a label for each choice; null takes A, B, C and so on."""


class VerifyStep(AnswerStep):
    """Keeps the rows whose answer is that of a reference."""

    kind: Literal["verify"]
    reference: str = "answer"
    """The column with the right answer, or with a text that marks it."""
    keep: Literal["right", "all"] = "right"
    """`all` keeps every row and says which are right in a column `is_right`."""


class LengthStep(RecipePart):
    """Keeps the rows of a given length."""

    kind: Literal["length"]
    unit: Literal["words", "characters"] = "words"
    """What is counted; words are what white space parts."""
    of: Literal["completion", "prompt"] = "completion"
    """Of rows of plain text, their `text` is the completion."""
    min_length: int = Field(default=1, ge=0)
    """Shorter rows are dropped."""
    max_length: int | None = Field(default=None, gt=0)
    """Longer rows are dropped; null keeps them."""


CurationStep = Annotated[VerifyStep | LengthStep, Field(discriminator="kind")]
