"""Which notices a run calls for: the checks of `llmkd.report.notices`, on what the run wrote."""

from collections.abc import Iterator, Sequence

from llmkd.recipe.losses import CrossEntropyTerm, TeacherTerm
from llmkd.recipe.schema import TrainStage
from llmkd.report import notices
from llmkd.report.notices import Notice
from llmkd.report.run_files import Line, RunFiles, StageRun
from llmkd.report.verdict import Group, Row, is_clear


def stage_notices(run: RunFiles) -> list[Notice]:
    """What the stages' own files show."""
    found: list[Notice | None] = []
    for stage_run in run.stages.values():
        found += _of_metrics(stage_run)
        found += _of_counts(stage_run)
        if isinstance(stage_run.stage, TrainStage) and stage_run.stage.teacher is not None:
            found += _of_teacher(stage_run, stage_run.stage)
    return [notice for notice in found if notice is not None]


def result_notices(groups: Sequence[Group]) -> list[Notice]:
    """What the measurements show: over examples of one run, or over several runs."""
    found: list[Notice | None] = []
    for group in groups:
        for row in group.rows:
            found.append(notices.not_measured(row.model, group.place, group.metric, row.value))
            if row.role == "student" and group.twin is not None and row is not group.twin:
                found += _beside_twin(row, group.twin, group)
    return [notice for notice in found if notice is not None]


def _beside_twin(student: Row, twin: Row, group: Group) -> Iterator[Notice | None]:
    names = (student.model, twin.model, group.place, group.metric)
    yield notices.worse_student(*names, student.value, twin.value, is_clear=is_clear(student, twin))
    if student.difference is not None and student.is_claim is not None:
        yield notices.no_claim(*names, student.difference, student.is_claim)
        return
    ends = (student.low, student.high), (twin.low, twin.high)
    yield notices.overlapping(*names, *ends, is_twin=twin.role == "twin")


def column(lines: Sequence[Line], metric: str) -> list[float]:
    """A metric over the log lines that have it."""
    return [line[metric] for line in lines if metric in line]


def _of_metrics(run: StageRun) -> Iterator[Notice | None]:
    names = list(dict.fromkeys(name for line in run.metrics for name in line))
    for name in names:
        lines = [line for line in run.metrics if name in line]
        steps = [line["step"] for line in lines]
        yield notices.not_finite(run.name, name, steps, column(lines, name))
    if skipped := column(run.metrics, "skipped_steps"):
        # Both are counts since the training began.
        last = int(run.metrics[-1]["step"])
        yield notices.skipped_steps(run.name, last, int(skipped[-1]))


def _of_counts(run: StageRun) -> Iterator[Notice | None]:
    data = run.data
    if data.num_rows is not None:
        available = sum(source.num_available or 0 for source in data.sources) or data.num_rows
        yield notices.lost_rows(
            run.name, data.num_rows, data.num_truncated or 0, data.num_dropped or 0, available
        )
    asked, kept = run.generation.num_completions, run.generation.num_kept
    asked = run.generation.num_prompts if asked is None else asked
    if asked is not None and kept is not None:
        yield notices.lost_completions(run.name, asked, kept)


def _of_teacher(run: StageRun, stage: TrainStage) -> Iterator[Notice | None]:
    names = [term.name or term.kind for term in stage.losses if isinstance(term, TeacherTerm)]
    kl = column(run.metrics, "kl")
    yield notices.began_as_teacher(run.name, kl) if kl else None
    # KL is there whatever the terms are; without it the first teacher term stands for it.
    main = ["kl"] if kl else [f"loss/{name}" for name in names[:1]]
    for metric in main:
        yield notices.hardly_fell(run.name, metric, column(run.metrics, metric))
    norms = {
        name.removeprefix("grad_norm/"): column(run.metrics, name)
        for name in dict.fromkeys(key for line in run.metrics for key in line)
        if name.startswith("grad_norm/")
    }
    for name in names:
        yield notices.unfelt_term(run.name, name, norms)
    yield notices.worse_teacher(
        run.name, column(run.metrics, "teacher_nll"), own_loss(run.metrics, stage)
    )


def own_loss(lines: Sequence[Line], stage: TrainStage) -> list[float]:
    """The student's cross-entropy on its text, where the objective has such a term."""
    name = cross_entropy_name(stage)
    return [] if name is None else column(lines, name)


def cross_entropy_name(stage: TrainStage) -> str | None:
    """What metrics call the cross-entropy term."""
    for term in stage.losses:
        if isinstance(term, CrossEntropyTerm):
            return f"loss/{term.name or term.kind}"
    return None
