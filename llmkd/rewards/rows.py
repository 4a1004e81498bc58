"""What rewards read: the text of a rollout, and its row of the data."""

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from llmkd.errors import DataError
from llmkd.recipe.yaml_places import Key, dotted
from llmkd.rewards.maths import number_of
from llmkd.rewards.multiple_choice import right_label


def text_of(completion: Any) -> str:
    """What the assistant says at the end of a rollout, as text.

    Of a conversation that is its last message. It is empty where that has nothing but tool calls, or
    is a tool's, whose words are not the student's.
    """
    if isinstance(completion, str):
        return completion
    last = completion[-1] if completion else {}
    content = last.get("content") if last.get("role") == "assistant" else None
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    return content or ""


class Row:
    """One row of the data, as a reward reads it.

    Args:
        columns: Of the whole batch, a list each.
        index: Of the row.
        key: Where the reward stands in its stage.
    """

    def __init__(self, columns: Mapping[str, Any], index: int, key: Key):
        self.columns, self.index, self.key = columns, index, key

    def answer(self, column: str, *, is_number: bool = False) -> str:
        """The right answer, or a text that marks it.

        Raises:
            DataError: There is none.
        """
        value = self._value(column, "answer_column")
        is_plain = isinstance(value, str | int | float) and not isinstance(value, bool)
        if not is_plain or not str(value).strip():
            raise self._wrong(column, value, "text or a number", "answer_column")
        if is_number and number_of(str(value)) is None:
            raise self._wrong(column, value, "a number", "answer_column")
        return str(value)

    def choices(self, column: str) -> tuple[Sequence[str], Sequence[str]]:
        """Labels and texts of the choices.

        Raises:
            DataError: There are none.
        """
        value = self._value(column, "choices_column")
        texts, labels = value, None
        if isinstance(value, Mapping):
            texts, labels = value.get("text"), value.get("label")
        if isinstance(texts, list | tuple) and texts:
            labels = ascii_uppercase[: len(texts)] if labels is None else labels
            if len(labels) == len(texts):
                return [*map(str, labels)], [*map(str, texts)]
        raise self._wrong(column, value, "a list of texts", "choices_column")

    def right_choice(self, column: str, labels: Sequence[str], choices: Sequence[str]) -> str:
        """The label of the right choice.

        Raises:
            DataError: None of them is right.
        """
        value = self._value(column, "answer_column")
        label = right_label(str(value), labels, choices)
        if label is None:
            wanted = f"the label or the text of one of {', '.join(labels)}"
            raise self._wrong(column, value, wanted, "answer_column")
        return label

    def _value(self, column: str, field: str) -> Any:
        value = self.columns.get(column)
        if value is None or value[self.index] is None:
            raise DataError(
                "keep_columns",
                f"{dotted(self.key)} reads the column {column!r}, and a row has none; name it there, "
                f"or write another {dotted(self.key)}.{field}",
            )
        return value[self.index]

    def _wrong(self, column: str, value: Any, wanted: str, field: str) -> DataError:
        return DataError(
            "dataset_name",
            f"{dotted(self.key)} reads {str(value)[:80]!r} in the column {column!r}, which is not "
            f"{wanted}; write it there, or another {dotted(self.key)}.{field}",
        )
