"""Student beside teacher and twin: what was measured, in the order of its tasks, and in a sentence."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from llmkd.evaluation.compare import Row as ComparedRow
from llmkd.evaluation.metric_names import is_lower_better
from llmkd.evaluation.results import Record
from llmkd.report.formats import bounds, measured
from llmkd.report.roles import Role
from llmkd.report.stage_files import Difference


@dataclass(frozen=True)
class Row:
    """One model on one metric."""

    model: str
    role: Role
    value: float
    low: float
    high: float
    """Ends of the 95 % interval: over examples for one run, over runs for several."""
    num_examples: int | None = None
    each: tuple[float, ...] = ()
    """One value per run, where there are several."""
    difference: tuple[float, float, float] | None = None
    """To the baseline, with its interval; paired over runs."""
    is_claim: bool | None = None
    word: str = ""
    """What a difference over examples says: `better`, `worse`, `noise`."""


@dataclass(frozen=True)
class Sentence:
    """What was measured, and what it says."""

    evidence: str
    conclusion: str

    def __str__(self) -> str:
        return f"{self.evidence}: {self.conclusion}."


@dataclass(frozen=True)
class Group:
    """All models on one metric of one task.

    Args:
        task: What was measured.
        metric: How.
        rows: In the order of the evaluate stage.
        teachers: Which models a student learnt from.
        baseline: The twin to compare with; default the best one.
        suite: What the task belongs to.
    """

    task: str
    metric: str
    rows: Sequence[Row]
    teachers: Mapping[str, Sequence[str]]
    baseline: str | None = None
    suite: str = ""

    @property
    def place(self) -> str:
        """What was measured on; suites may have tasks of one name."""
        return f"{self.task} of {self.suite}" if self.suite else self.task

    @property
    def is_compared(self) -> bool:
        """Whether models were compared with the first one, example by example."""
        return any(row.word for row in self.rows)

    @property
    def is_lower_better(self) -> bool:
        """Whether less is better."""
        return is_lower_better(self.metric)

    @property
    def twin(self) -> Row | None:
        """What students are compared with: the baseline, or the twin that did best."""
        if self.baseline is not None:
            return self._named([self.baseline])
        twins = [row for row in self.rows if row.role == "twin" and math.isfinite(row.value)]
        return max(twins, key=lambda row: _gain(row.value, self.metric), default=None)

    def teacher_of(self, model: str) -> Row | None:
        """The first of a student's teachers that was measured."""
        return self._named(self.teachers.get(model, ()))

    @property
    def sentences(self) -> list[Sentence]:
        """One per student."""
        return [
            sentence(row, self.twin, self.teacher_of(row.model), self.metric)
            for row in self.rows
            if row.role == "student" and row is not self.twin
        ]

    def _named(self, models: Sequence[str]) -> Row | None:
        by_name = {row.model: row for row in self.rows}
        return next((by_name[model] for model in models if model in by_name), None)


def groups_of_records(
    records: Sequence[Record],
    roles: Mapping[str, Role],
    teachers: Mapping[str, Sequence[str]],
    baseline: str | None,
    differences: Sequence[Difference] = (),
) -> list[Group]:
    """One run's results; intervals are over examples."""
    known = {(one.suite, one.task, one.metric, one.model): one for one in differences}
    grouped: dict[tuple[str, str, str], list[Row]] = {}
    for record in records:
        place = (record.suite, record.task, record.metric)
        role = roles.get(record.model, "other")
        ends = (record.value, record.ci_low, record.ci_high)
        row = Row(record.model, role, *ends, num_examples=record.num_examples)
        grouped.setdefault(place, []).append(_compared(row, known.get((*place, record.model))))
    return [
        Group(task, metric, rows, teachers, baseline, suite)
        for (suite, task, metric), rows in grouped.items()
    ]


def _compared(row: Row, found: Difference | None) -> Row:
    """The row with its difference to the stage's first model, where that could be measured."""
    if found is None or found.value is None or found.ci_low is None or found.ci_high is None:
        return row
    return replace(row, difference=(found.value, found.ci_low, found.ci_high), word=found.verdict)


def groups_of_runs(
    compared: Sequence[ComparedRow],
    roles: Mapping[str, Role],
    teachers: Mapping[str, Sequence[str]],
    baseline: str | None,
) -> list[Group]:
    """Several runs' results, as `llmkd compare` has them; intervals are over runs."""
    grouped: dict[tuple[str, str, str], list[Row]] = {}
    for row in compared:
        role = roles.get(row.model, "other")
        grouped.setdefault((row.suite, row.task, row.metric), []).append(
            Row(
                row.model,
                role,
                row.mean,
                row.ci_low,
                row.ci_high,
                each=tuple(row.values),
                difference=_difference(row),
                is_claim=row.is_claim,
            )
        )
    return [
        Group(task, metric, rows, teachers, baseline, suite)
        for (suite, task, metric), rows in grouped.items()
    ]


def sentence(student: Row, twin: Row | None, teacher: Row | None, metric: str) -> Sentence:
    """Student, twin and teacher in a line, and what share of the gap the student closes.

    The share is (student - twin) / (teacher - twin). It is left out where it would mislead: where
    the teacher is no better than the twin, or the difference to the twin may be chance.
    """
    if teacher is twin:
        teacher = None  # Asked for as the baseline.
    parts = [f"{student.model} {_with_interval(student, metric)}"]
    parts += [f"{row.model} {measured(row.value, metric)}" for row in (twin, teacher) if row]
    return Sentence("; ".join(parts), _conclusion(student, twin, teacher, metric))


def gap_closed(student: float, twin: float, teacher: float) -> float:
    """The student's share of the way from twin to teacher; 1 is the teacher's place.

    Example:
        >>> gap_closed(0.75, 0.5, 1.0)
        0.5
    """
    return (student - twin) / (teacher - twin)


def _conclusion(student: Row, twin: Row | None, teacher: Row | None, metric: str) -> str:
    compared = [row for row in (student, twin, teacher) if row is not None]
    if not all(math.isfinite(row.value) for row in compared):
        return "a number that is not finite allows no comparison"
    if twin is None:
        return "without a twin nothing tells how much of this the teacher brought"
    gain = _gain(student.value, metric) - _gain(twin.value, metric)
    doubt = _doubt(student, twin)
    if doubt:
        return doubt
    if gain < 0:
        return f"the student is worse than {twin.model}"
    if teacher is None:
        return f"the student is better than {twin.model}"
    if _gain(teacher.value, metric) <= _gain(twin.value, metric):
        return f"the teacher is no better than {twin.model}, so there is no gap to close"
    if _gain(student.value, metric) > _gain(teacher.value, metric):
        is_level = student.low <= teacher.high and teacher.low <= student.high
        return f"the student is {'level with' if is_level else 'past'} its teacher"
    share = gap_closed(student.value, twin.value, teacher.value)
    return f"the student closes {100 * share:.0f} % of the gap from {twin.model} to {teacher.model}"


def is_clear(student: Row, twin: Row) -> bool:
    """Whether the difference is more than chance, as far as the intervals or the seeds tell."""
    return math.isfinite(student.value - twin.value) and _doubt(student, twin) is None


def _doubt(student: Row, twin: Row) -> str | None:
    """Why the difference may be chance."""
    if student.is_claim is False:
        return f"the difference to {twin.model} is no claim over these seeds"
    # Over runs, pairing by seed decides; the intervals of two means may overlap all the same.
    if student.is_claim is None and student.low <= twin.high and twin.low <= student.high:
        return f"the interval overlaps that of {twin.model}, so no difference is shown"
    return None


def _with_interval(row: Row, metric: str) -> str:
    return f"{measured(row.value, metric)} {bounds(row.low, row.high, metric)}"


def _gain(value: float, metric: str) -> float:
    """Larger is better."""
    return -value if is_lower_better(metric) else value


def _difference(row: ComparedRow) -> tuple[float, float, float] | None:
    low, high = row.difference_low, row.difference_high
    if row.difference is None or low is None or high is None:
        return None
    return (row.difference, low, high)
