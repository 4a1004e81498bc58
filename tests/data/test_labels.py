import pytest

from llmkd.data.labels import (
    chosen_labels,
    has_classifier_head,
    is_label,
    label_ids,
    label_text,
    names_in_config,
)
from llmkd.errors import DataError

PLACEHOLDERS = ["LABEL_0", "LABEL_1"]


def test_labels_are_text_integers_and_truth():
    assert [label_text(value) for value in ("a", 3, True, False)] == ["a", "3", "true", "false"]
    assert [is_label(value) for value in ("a", 3, True, "", None, 1.0, ["a"])] == (
        [True] * 3 + [False] * 4
    )


def test_names_are_in_the_order_of_the_outputs():
    # As JSON has them, and beyond 9, where text would be sorted otherwise than numbers.
    config = {"id2label": {str(i): f"l{i}" for i in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)}}
    assert names_in_config(config) == [f"l{i}" for i in range(11)]
    assert names_in_config({"id2label": {1: "b", 0: "a"}}) == ["a", "b"]
    assert names_in_config({}) == PLACEHOLDERS


def test_outputs_without_names_or_with_given_ones_answer_to_their_numbers():
    assert label_ids(PLACEHOLDERS) == {"LABEL_0": 0, "LABEL_1": 1, "0": 0, "1": 1}
    assert label_ids(["b", "a"]) == {"b": 0, "a": 1}
    assert label_ids(["b", "a"], is_given=True) == {"b": 0, "a": 1, "0": 0, "1": 1}
    # A label that is a number means itself.
    for is_given in (True, False):
        assert label_ids(["1", "0"], is_given=is_given) == {"1": 0, "0": 1}
        assert label_ids(["a", "0"], is_given=is_given) == {"a": 0, "0": 1}


def test_rows_with_numbers_are_told_how_to_count_the_teachers_labels():
    found, teacher = {"0", "1"}, ["no", "yes"]
    with pytest.raises(DataError) as first:
        chosen_labels(None, teacher, None, found)
    # Whoever writes the numbers as labels then is told the same.
    with pytest.raises(DataError) as second:
        chosen_labels(["0", "1"], teacher, None, found)
    way_out = "write these as `labels`, in this order, if the rows' numbers count them from 0"
    assert all(way_out in str(error.value) for error in (first, second))
    assert chosen_labels(teacher, teacher, None, found) == teacher
    with pytest.raises(DataError, match=r"no output for .'2'.; it has .* leave such rows out"):
        chosen_labels(teacher, teacher, None, {"0", "2"})


@pytest.mark.parametrize(
    ("given", "teacher", "student", "found", "expected"),
    [
        (["b", "a"], None, None, {"a"}, ["b", "a"]),
        (None, ["b", "a"], None, {"a"}, ["b", "a"]),
        (None, ["b", "a"], PLACEHOLDERS, {"a"}, ["b", "a"]),
        (None, ["b", "a"], ["b", "a"], {"a"}, ["b", "a"]),
        (["b", "a"], PLACEHOLDERS, None, {"a"}, ["b", "a"]),
        (["b", "a"], ["b", "a"], ["c", "d"], {"a"}, ["b", "a"]),
        (None, PLACEHOLDERS, None, {"0", "1"}, PLACEHOLDERS),
        (None, None, ["b", "a", "c"], {"a", "b"}, ["b", "a", "c"]),
        (None, None, ["b", "a"], {"a", "x"}, ["a", "x"]),
        (None, None, PLACEHOLDERS, {"no", "yes"}, ["no", "yes"]),
        (None, None, None, {"10", "9", "0"}, ["0", "9", "10"]),
        (None, None, None, {"b", "a", "3"}, ["a", "b", "3"]),
    ],
)
def test_the_recipe_comes_first_then_the_teacher_then_the_student_then_the_rows(
    given, teacher, student, found, expected
):
    assert chosen_labels(given, teacher, student, found) == expected


@pytest.mark.parametrize(
    ("given", "teacher", "student", "found", "message"),
    [
        (["a", "b"], ["b", "a"], None, {"a"}, "not the model's, which has 'b', 'a'; write these"),
        (["a", "b", "c"], PLACEHOLDERS, None, {"a"}, "are 3, and the model has 2 outputs"),
        (["a", "a"], None, None, {"a"}, "'a' comes twice"),
        (["a", "b"], None, None, {"a", "x"}, "1 labels that the model has no output for .'x'."),
        (None, ["a", "b"], None, {"x"}, "no output for .'x'.; it has 'a', 'b'"),
        (None, PLACEHOLDERS, None, {"yes"}, "write all labels in the order of the outputs"),
        (None, ["a", "b"], ["b", "a"], {"a"}, "student and teacher have different labels: 'b'"),
        (None, None, None, {"a"}, "only the label 'a'"),
        (None, None, ["b", "a"], {"a"}, "only the label 'a'"),
        (None, ["a"], None, {"a"}, "only the output 'a', .* write another model"),
        (None, PLACEHOLDERS[:1], None, {"0"}, "only the output 'LABEL_0'"),
        (["a"], None, None, {"a"}, "only the output 'a'"),
    ],
)
def test_labels_that_do_not_fit_are_refused(given, teacher, student, found, message):
    with pytest.raises(DataError, match=message) as error:
        chosen_labels(given, teacher, student, found)
    assert error.value.key == ("labels",)


def test_only_a_classifiers_checkpoint_has_its_head():
    assert has_classifier_head({"architectures": ["BertForSequenceClassification"]})
    assert not has_classifier_head({"architectures": ["BertForMaskedLM"]})
    assert not has_classifier_head({"architectures": None})
