"""What a classifier's outputs are called, and how rows name them. Imports no torch."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from llmkd.errors import DataError
from llmkd.recipe.data import Classification, LabelledRows, is_regression

NUM_SHOWN = 5
NUM_BY_DEFAULT = 2
"""Labels of a configuration that names none."""
LARGEST = 1e18
"""A label's largest amount: its square is a number in single precision."""


def is_label(value: Any) -> bool:
    """Whether a row's value can be a label: text, an integer, true or false."""
    return value != "" if isinstance(value, str) else isinstance(value, int)


def is_number(value: Any) -> bool:
    """Whether a row's value can be the label of a regression."""
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and abs(value) <= LARGEST


def wanted_label(source: object) -> tuple[str, Callable[[Any], bool]]:
    """What the rows' labels have to be, in words, and whether a value is."""
    if is_regression(source):
        return "a number", is_number
    return "text or an integer (or, with problem_type: regression, a number)", is_label


def label_text(value: str | int) -> str:
    """A row's label as text.

    Example:
        >>> label_text(3), label_text(True), label_text("refund")
        ('3', 'true', 'refund')
    """
    return str(value).lower() if isinstance(value, bool) else str(value)


def has_classifier_head(config: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's configuration says that it is a sequence classifier."""
    names = config.get("architectures") or ()
    return any(str(name).endswith("ForSequenceClassification") for name in names)


def names_in_config(config: Mapping[str, Any]) -> list[str]:
    """The labels of a model's configuration, in the order of its outputs."""
    names = config.get("id2label") or {i: f"LABEL_{i}" for i in range(NUM_BY_DEFAULT)}
    return [str(names[i]) for i in sorted(names, key=int)]


def are_placeholders(names: Sequence[str]) -> bool:
    """Whether they are those that transformers gives where nobody named the labels."""
    return list(names) == [f"LABEL_{i}" for i in range(len(names))]


def given_labels(source: Classification) -> list[str] | None:
    """The recipe's `data.labels`."""
    return source.labels if isinstance(source, LabelledRows) else None


def label_ids(names: Sequence[str], *, is_given: bool = False) -> dict[str, int]:
    """From label to output, and from the output's number where that can mean nothing else.

    Args:
        names: In the order of the outputs.
        is_given: Whether the recipe writes them out: then rows may count them, unless one of them
            is a number itself. Otherwise they may where nobody named the labels.

    Example:
        >>> label_ids(["no", "yes"], is_given=True)
        {'no': 0, 'yes': 1, '0': 0, '1': 1}
    """
    ids = {name: i for i, name in enumerate(names)}
    is_counted = is_given and not any(map(str.isdecimal, names))
    if is_counted or are_placeholders(names):
        ids |= {str(i): i for i in range(len(names))}
    return ids


def chosen_labels(
    given: Sequence[str] | None,
    teacher: Sequence[str] | None,
    student: Sequence[str] | None,
    found: Collection[str],
) -> list[str]:
    """What the outputs of student and teacher stand for, in their order.

    Args:
        given: The recipe's `data.labels`.
        teacher: Those of the configuration of the teacher, or of a model that is measured.
        student: Those of a pretrained student's.
        found: Those of the rows.

    Raises:
        DataError: They do not fit each other; names what to write.
    """
    if given is None:
        labels = list(teacher or _of_data(student, found))
        _refuse_other_student(student, teacher)
    else:
        labels = list(given)
        _refuse_repeated(labels)
        _refuse_other_teacher(labels, teacher)
    _refuse_unknown(labels, found, is_given=given is not None)
    if len(labels) < 2:
        raise DataError(
            "labels",
            f"the model has only the output {_listed(labels)}, and a classifier chooses between "
            "several; write another model, or problem_type: regression where labels are numbers",
        )
    return labels


def one_output(model: Sequence[str] | None) -> list[str]:
    """What a regression's only output is called, as transformers does.

    Args:
        model: The labels in the configuration of the teacher, or of a model that is measured.

    Raises:
        DataError: It has several.
    """
    if model is not None and len(model) != 1:
        raise DataError(
            "problem_type",
            f"is regression, and the model has an output for each of {_listed(model)}; write a "
            "model with one output, or leave problem_type out where labels are names",
        )
    return ["LABEL_0"]


def _refuse_unknown(labels: Sequence[str], found: Iterable[str], *, is_given: bool) -> None:
    unknown = set(found) - label_ids(labels, is_given=is_given).keys()
    if not unknown:
        return
    instead = (
        "write all labels in the order of the outputs, leave such rows out, or write another model"
    )
    if unknown <= label_ids(labels, is_given=True).keys():
        instead = "write these as `labels`, in this order, if the rows' numbers count them from 0"
    raise DataError(
        "labels",
        f"the rows have {len(unknown)} labels that the model has no output for "
        f"({_listed(sorted(unknown))}); it has {_listed(labels)}; {instead}",
    )


def _of_data(student: Sequence[str] | None, found: Collection[str]) -> list[str]:
    if len(found) < 2:
        raise DataError(
            "labels",
            f"the rows have only the label {_listed(found)}; write all labels, or name other rows",
        )
    if student is not None and label_ids(student).keys() >= set(found):
        return list(student)
    # Integers by their size: 10 comes after 9.
    return sorted(found, key=lambda name: (len(name) if name.isdecimal() else 0, name))


def _refuse_repeated(labels: Sequence[str]) -> None:
    if repeated := sorted({name for name in labels if labels.count(name) > 1}):
        raise DataError("labels", f"{_listed(repeated)} comes twice; write each label once")


def _refuse_other_teacher(labels: Sequence[str], teacher: Sequence[str] | None) -> None:
    if teacher is None or labels == list(teacher):
        return
    if not are_placeholders(teacher):
        raise DataError(
            "labels",
            f"are not the model's, which has {_listed(teacher)}; write these as `labels`, in this "
            "order, if the rows' numbers count them from 0, or leave `labels` out",
        )
    if len(teacher) != len(labels):
        raise DataError(
            "labels",
            f"are {len(labels)}, and the model has {len(teacher)} outputs; write as many, in the "
            "order of its outputs",
        )


def _refuse_other_student(student: Sequence[str] | None, teacher: Sequence[str] | None) -> None:
    if student is None or teacher is None or are_placeholders(student):
        return
    if list(student) != list(teacher):
        raise DataError(
            "labels",
            f"student and teacher have different labels: {_listed(student)}, and {_listed(teacher)}; "
            "write the teacher's as `labels`, in its order, for which the student's head is reordered "
            "or made anew, or write another student",
        )


def _listed(names: Iterable[str]) -> str:
    several = list(names)
    more = ", ..." if len(several) > NUM_SHOWN else ""
    return ", ".join(map(repr, several[:NUM_SHOWN])) + more
