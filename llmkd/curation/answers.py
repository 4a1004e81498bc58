"""The answers of completions, as the graders of `llmkd.rewards` find and compare them."""

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, assert_never

from llmkd.curation.journal import Journal
from llmkd.curation.rows import column
from llmkd.curation.tally import Row, StepError
from llmkd.recipe.curation_steps import AnswerStep
from llmkd.rewards.exact import UNANSWERED, Grade, exact_match, normalised
from llmkd.rewards.maths import math_verify, number, number_of
from llmkd.rewards.multiple_choice import multiple_choice, right_label


@dataclass(frozen=True)
class Answers:
    """Finds answers and holds them against references.

    Args:
        step: How.
        journal: Where the verdicts of math-verify are kept, which can take seconds each.
    """

    step: AnswerStep
    journal: Journal

    def of(self, row: Row, text: str) -> str | None:
        """The answer of a text, equal for texts that answer the same; None where there is none."""
        found = self.found(row, text)
        return None if found is None else self.label(found)

    def found(self, row: Row, text: str) -> str | None:
        """The answer of a text, whether it is one of the step's labels or not."""
        said = self._marked(text)
        if said is None:
            return None
        # To find an answer, whatever it is held against will do; math-verify need not compare it.
        return self._graded(row, said, "0" if self.step.grader == "number" else "").answer or None

    def label(self, answer: str) -> str | None:
        """The label that an answer is but for case; where there are no labels, the answer."""
        if self.step.labels is None:
            return answer
        labels = {normalised(label): label for label in self.step.labels}
        return labels.get(normalised(answer))

    def grade(self, row: Row, text: str, reference: str) -> Grade:
        """Whether a text answers as a reference does, which may be a text that marks its answer.

        Raises:
            StepError: The reference has no answer.
        """
        right = self._right(row, self._marked(reference) or reference)
        said = self._marked(text)
        if said is None:
            return UNANSWERED
        grade = self._graded(row, said, right)
        answer = None if grade.answer is None else self.label(grade.answer)
        return UNANSWERED if answer is None else Grade(answer, grade.is_right)

    def _right(self, row: Row, reference: str) -> str:
        """What an answer is held against: of choices the label, and else the reference itself."""
        right: str | None = reference
        if self.step.grader == "multiple_choice":
            right = right_label(reference, *self._choices(row))
        if right is None or (self.step.grader == "number" and number_of(right) is None):
            raise StepError(
                "grader",
                f"{self.step.grader} finds none in the reference {reference[:80]!r}; write another "
                "grader, or the column with the right answers",
            )
        return right

    def _marked(self, text: str) -> str | None:
        if self.step.answer_marker is None:
            return text
        _, mark, rest = text.rpartition(self.step.answer_marker)
        return rest.strip() if mark else None

    def _graded(self, row: Row, text: str, reference: str) -> Grade:
        match self.step.grader:
            case "number":
                return number(text, reference)
            case "exact_match":
                return exact_match(text, reference)
            case "math_verify":
                question = [text, reference]
                answer, is_right = self.journal.verdict(
                    question, lambda: list(vars(math_verify(text, reference)).values())
                )
                return Grade(answer, is_right)
            case "multiple_choice":
                labels, choices = self._choices(row)
                return multiple_choice(text, reference, labels=labels, choices=choices)
            case unknown:
                assert_never(unknown)

    def _choices(self, row: Row) -> tuple[Sequence[str], Sequence[str]]:
        """Labels and texts of a row's choices."""
        step = self.step
        if step.labels is not None:
            return step.labels, step.labels
        choices, labels = column(row, step.choices_column, "choices_column"), None
        if isinstance(choices, dict):
            choices, labels = choices.get("text"), choices.get("label")
        if step.labels_column is not None:
            labels = column(row, step.labels_column, "labels_column")
        texts = _texts(choices, "choices_column")
        labels = list(ascii_uppercase[: len(texts)]) if labels is None else labels
        return _texts(labels, "labels_column", len(texts)), texts


def reference_of(value: Any, field: str) -> str:
    """A right answer as text.

    Raises:
        StepError: There is none.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value
    raise StepError(
        field,
        f"a row's right answer is {value!r}; write text or a number there, or leave the row out",
    )


def _texts(value: Any, field: str, length: int | None = None) -> list[str]:
    is_good = isinstance(value, list) and bool(value) and all(isinstance(x, str) for x in value)
    if is_good and length in (None, len(value)):
        return value
    wanted = "texts" if length is None else f"{length} texts"
    raise StepError(
        field, f"a row has {str(value)[:80]} there, which is no list of {wanted}; write one"
    )
