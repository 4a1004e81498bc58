"""Questions with their right answers, from rows of whatever columns."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from string import ascii_uppercase
from typing import Any, TypeGuard

from llmkd.data.files import raw_rows
from llmkd.data.question_columns import columns_of, written_names
from llmkd.errors import DataError
from llmkd.recipe.reasoning import Grader, QuestionRows, SolvedExample
from llmkd.rewards.maths import number_of

_YES_OR_NO = {True: ("yes", "true"), False: ("no", "false")}


@dataclass(frozen=True)
class Question:
    """What is asked, and what is right."""

    text: str
    solution: str
    """What a solved example shows: all of the answer, the reasoning included."""
    reference: str
    """What answers are held against: of a choice its label."""
    choices: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    """One for each of the choices."""


def read_questions(source: QuestionRows, grader: Grader) -> list[Question]:
    """The questions of a data set, in its order.

    `choices` may be a list, or a mapping of `text` and `label` lists, as ARC has them; without labels
    they are A, B, C and so on.

    Args:
        source: The rows.
        grader: What has to hold of the answers: `number` needs a number, `multiple_choice` a label.

    Raises:
        DataError: No rows, a column that is not there, or an answer that cannot be graded.
    """
    rows = islice(raw_rows(source, written_names(source)), source.num_examples)
    questions = [_question(row, n, source, grader) for n, row in enumerate(rows, 1)]
    if not questions:
        raise DataError(
            "dataset_name", f"{source.dataset_name}: the data set is empty; name one with rows"
        )
    return questions


def solved(example: SolvedExample) -> Question:
    """An example of a recipe, to be shown."""
    labels = tuple(ascii_uppercase[: len(example.choices)])
    return Question(
        example.question, example.answer, example.answer, tuple(example.choices), labels
    )


def _question(
    row: Mapping[str, Any], number: int, source: QuestionRows, grader: Grader
) -> Question:
    is_choice = grader == "multiple_choice"
    columns = columns_of(row, source, grader)
    values = {column: None if name is None else row[name] for column, name in columns.items()}
    if not isinstance(values["question"], str) or not values["question"].strip():
        raise _bad(source, number, "question", "text", values["question"])
    choices, labels = _choices(values, source, number)
    answer = _answer(values["answer"], choices, source, number)
    if grader == "number" and number_of(answer) is None:
        raise _bad(source, number, "answer", "a number, which grader: number needs", answer)
    if is_choice:
        label = _label(answer, choices, labels)
        if label is None:
            raise _bad(source, number, "answer", f"one of {', '.join(labels)}", answer)
        shown = label if labels == choices else f"({label})"
        return Question(values["question"], shown, label, choices, labels)
    return Question(values["question"], answer, answer, choices, labels)


def _choices(
    values: Mapping[str, Any], source: QuestionRows, number: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    choices, labels = values["choices"], values["labels"]
    if choices is None:
        own = tuple(source.choices or ())
        return own, own
    if isinstance(choices, Mapping):
        choices, labels = choices.get("text"), choices.get("label")
    if not _are_texts(choices):
        raise _bad(source, number, "choices", "a list of texts", choices)
    labels = list(ascii_uppercase[: len(choices)]) if labels is None else labels
    if not _are_texts(labels) or len(labels) != len(choices):
        raise _bad(source, number, "labels", f"a list of {len(choices)} texts", labels)
    return tuple(choices), tuple(labels)


def _answer(value: Any, choices: tuple[str, ...], source: QuestionRows, number: int) -> str:
    if isinstance(value, bool):
        words = _YES_OR_NO[value]
        return next((word for word in words if word in choices), words[1])
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value
    raise _bad(source, number, "answer", "text or a number", value)


def _label(answer: str, choices: tuple[str, ...], labels: tuple[str, ...]) -> str | None:
    if answer in labels:
        return answer
    return labels[choices.index(answer)] if answer in choices else None


def _are_texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and value != [] and all(isinstance(one, str) for one in value)


def _bad(source: QuestionRows, number: int, column: str, wanted: str, value: Any) -> DataError:
    shown = repr(value)
    return DataError(
        "dataset_name",
        f"{source.dataset_name}: {column} of row {number} is not {wanted}: {shown[:80]}; write it "
        "there, or leave the row out",
    )
