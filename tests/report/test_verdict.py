import math

import pytest

from llmkd.report.verdict import Group, Row, gap_closed, groups_of_records, sentence

STUDENT = Row("student", "student", 0.982, 0.970, 0.992)
TWIN = Row("twin", "twin", 0.364, 0.322, 0.406)
TEACHER = Row("teacher", "teacher", 1.0, 1.0, 1.0)


def said(student=STUDENT, twin=TWIN, teacher=TEACHER, metric="exact_match"):
    return str(sentence(student, twin, teacher, metric))


def test_the_sentence_says_what_share_of_the_gap_is_closed():
    # (98.2 - 36.4) / (100 - 36.4) = 61.8 / 63.6 = 97.2 %
    assert said() == (
        "student 98.2 % [97.0, 99.2]; twin 36.4 %; teacher 100.0 %: "
        "the student closes 97 % of the gap from twin to teacher."
    )


def test_where_lower_is_better_the_gap_is_closed_downwards():
    rows = (Row("s", "student", 6.0, 5.8, 6.2), Row("w", "twin", 8.0, 7.9, 8.1))
    text = said(*rows, Row("t", "teacher", 4.0, 4.0, 4.0), "perplexity")
    assert text.endswith("the student closes 50 % of the gap from w to t.")
    swapped = said(rows[1], rows[0], Row("t", "teacher", 4.0, 4.0, 4.0), "perplexity")
    assert swapped.endswith("the student is worse than s.")
    assert gap_closed(6.0, 8.0, 4.0) == 0.5


@pytest.mark.parametrize(
    ("rows", "conclusion"),
    [
        ({"twin": None}, "without a twin nothing tells how much of this the teacher brought."),
        ({"teacher": None}, "the student is better than twin."),
        ({"student": Row("student", "student", 0.4, 0.37, 0.43)}, "so no difference is shown."),
        ({"student": Row("student", "student", 0.2, 0.1, 0.3)}, "the student is worse than twin."),
        ({"teacher": Row("teacher", "teacher", 0.3, 0.3, 0.3)}, "so there is no gap to close."),
        ({"teacher": Row("teacher", "teacher", 0.9, 0.9, 0.9)}, "the student is past its teacher."),
        ({"teacher": Row("teacher", "teacher", 0.97, 0.96, 0.98)}, "is level with its teacher."),
        ({"teacher": Row("teacher", "teacher", math.nan, 0, 0)}, "allows no comparison."),
    ],
)
def test_no_share_is_told_where_it_would_mislead(rows, conclusion):
    assert said(**rows).endswith(conclusion)


def test_over_runs_the_paired_difference_decides_and_not_the_overlap_of_means():
    wide = Row("student", "student", 0.9, 0.3, 1.5, is_claim=True)
    assert "closes" in said(wide)
    assert said(Row("student", "student", 0.9, 0.8, 1.0, is_claim=False)).endswith(
        "the difference to twin is no claim over these seeds."
    )


def test_students_are_compared_with_the_best_twin_or_the_one_asked_for(record):
    records = [
        record("weak", 0.1, 0.1, 0.1),
        record("strong", 0.3, 0.3, 0.3),
        record("student", 0.5, 0.5, 0.5),
    ]
    roles = {"weak": "twin", "strong": "twin", "student": "student"}
    (best,) = groups_of_records(records, roles, {}, None)
    (asked,) = groups_of_records(records, roles, {}, "weak")
    assert best.twin is not None
    assert best.twin.model == "strong"
    assert asked.twin is not None
    assert asked.twin.model == "weak"
    lower = Group("t", "perplexity", best.rows, {})
    assert lower.twin is not None
    assert lower.twin.model == "weak"


def test_results_are_grouped_by_task_and_metric_with_a_sentence_per_student(record):
    records = [record("student", 0.9, 0.8, 1.0), record("other", 0.9, 0.8, 1.0)]
    records += [record("student", 2.0, 1.9, 2.1, metric="perplexity", task="text")]
    groups = groups_of_records(records, {"student": "student"}, {"student": ["teacher"]}, None)
    assert [(group.task, group.metric) for group in groups] == [
        ("sums", "exact_match"),
        ("text", "perplexity"),
    ]
    assert [len(group.sentences) for group in groups] == [1, 1]
    assert groups[0].rows[1].role == "other"
