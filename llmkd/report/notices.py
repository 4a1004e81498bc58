"""Signs that a distillation does nothing, or something else than was meant: one line each.

Every check takes plain numbers and returns a notice, or None where all is well. Losses are in nats
per token, of classifiers per text.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmkd.evaluation.metric_names import is_lower_better
from llmkd.report.formats import bounds, measured, number
from llmkd.report.formats import difference as difference_of

SMALLEST_FALL = 0.10
"""A term that fell by a smaller share of itself taught the student little."""
SMALLEST_SHARE = 0.01
"""A term with a smaller share of the gradient is not felt."""
LARGEST_LOSS_OF_ROWS = 0.05
SAME = 1e-3
"""KL below which two distributions are the same."""
FEWEST_LINES = 5
"""Log lines that it takes to tell the first tenth from the last."""


@dataclass(frozen=True)
class Notice:
    """One line on what is odd.

    Args:
        kind: Which check it is; the same one of several seeds is told once.
        subject: The stage or model.
        found: What was seen, with numbers.
        advice: What to do.
    """

    kind: str
    subject: str
    found: str
    advice: str


def not_finite(
    stage: str, metric: str, steps: Sequence[float], values: Sequence[float]
) -> Notice | None:
    """NaN or infinity in a metric."""
    broken = [step for step, value in zip(steps, values, strict=True) if not math.isfinite(value)]
    if not broken:
        return None
    return Notice(
        f"not finite {metric}",
        stage,
        f"{metric} is not finite in {len(broken)} of {len(values)} log lines, first at step "
        f"{broken[0]:,.0f}",
        "lower trainer.learning_rate or trainer.max_grad_norm, warm up for longer, or write bf16 "
        "in place of fp16",
    )


def skipped_steps(stage: str, num_steps: int, num_skipped: int) -> Notice | None:
    """Optimizer steps were left out, for their loss or gradient was not finite."""
    if num_skipped <= 0:
        return None
    return Notice(
        "skipped steps",
        stage,
        f"{num_skipped:,} of {num_steps:,} optimizer steps were skipped: their loss or gradient "
        "was not finite",
        "stderr named their rows: look at them; lower trainer.learning_rate, or warm up for longer",
    )


def hardly_fell(stage: str, metric: str, values: Sequence[float]) -> Notice | None:
    """The student came no closer to its teacher: first tenth of the training against the last."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < FEWEST_LINES:
        return None
    first, last = first_tenth(finite), last_tenth(finite)
    # A student that begins as its teacher cannot come closer; `began_as_teacher` tells of it.
    if first < SAME or last <= (1 - SMALLEST_FALL) * first:
        return None
    moved = f"fell by {100 * (1 - last / first):.0f} %" if last <= first else "rose"
    return Notice(
        f"hardly fell {metric}",
        stage,
        f"{metric} {moved}, from {number(first)} in the first tenth of the training to "
        f"{number(last)} in the last",
        "raise trainer.learning_rate or trainer.max_steps, or the term's weight; see whether the "
        "student is large enough",
    )


def unfelt_term(stage: str, term: str, norms: Mapping[str, Sequence[float]]) -> Notice | None:
    """A term's gradient is lost among those of the others.

    Args:
        stage: Its name.
        term: The teacher term in question.
        norms: `grad_norm/<term>` of every term, per log line.
    """
    finite = {name: list(filter(math.isfinite, values)) for name, values in norms.items()}
    # A term that was never finite has no share; `not_finite` tells of it.
    means = {name: _mean(values) for name, values in finite.items() if values}
    total = sum(means.values())
    if term not in means or len(means) < 2 or not total or means[term] >= SMALLEST_SHARE * total:
        return None
    return Notice(
        f"unfelt {term}",
        stage,
        f"{term} makes {100 * means[term] / total:.2g} % of the gradient (mean norm "
        f"{number(means[term])} of {number(total)})",
        "raise the term's weight, or lower that of the others",
    )


def worse_teacher(
    stage: str, teacher_nll: Sequence[float], cross_entropy: Sequence[float]
) -> Notice | None:
    """At the end of the training the teacher finds its text less likely than the student does."""
    teachers = last_tenth(list(filter(math.isfinite, teacher_nll)))
    students = last_tenth(list(filter(math.isfinite, cross_entropy)))
    if not teachers > students:
        return None
    return Notice(
        "worse teacher",
        stage,
        f"at the end the teacher's loss on the training text, {number(teachers)}, is above the "
        f"student's own, {number(students)}",
        "the teacher does not know this text, or the student has learnt it by heart: take a "
        "teacher that was trained on such text, text that the teacher wrote, or more rows",
    )


def lost_rows(
    stage: str, num_kept: int, num_truncated: int, num_dropped: int, num_available: int
) -> Notice | None:
    """Rows were cut or left out; of a mixture, more or fewer are available than are kept."""
    there = num_available + num_dropped
    cut = num_truncated / num_kept if num_kept > 0 else 0.0
    dropped = num_dropped / there if there > 0 else 0.0
    if max(cut, dropped) <= LARGEST_LOSS_OF_ROWS:
        return None
    return Notice(
        "lost rows",
        stage,
        f"{num_truncated:,} of {num_kept:,} rows were cut ({100 * cut:.0f} %), {num_dropped:,} of "
        f"{there:,} dropped ({100 * dropped:.0f} %)",
        "write a larger data.max_length: the student does not see how such rows end",
    )


def lost_completions(stage: str, num_prompts: int, num_kept: int) -> Notice | None:
    """A teacher's answers were left out, for they were empty or had no end."""
    if num_prompts <= 0 or num_kept >= (1 - LARGEST_LOSS_OF_ROWS) * num_prompts:
        return None
    share = 100 * (1 - num_kept / num_prompts)
    return Notice(
        "lost completions",
        stage,
        f"of {num_prompts:,} answers {num_prompts - num_kept:,} ({share:.0f} %) had no end or "
        "were empty, and were left out",
        "write a larger generation.max_completion_length, or train the teacher for longer; what "
        "is left are the shorter answers",
    )


def overlapping(
    student: str,
    twin: str,
    task: str,
    metric: str,
    of_student: tuple[float, float],
    of_twin: tuple[float, float],
    *,
    is_twin: bool = True,
) -> Notice | None:
    """The student's interval overlaps the twin's.

    Args:
        student: The model's name.
        twin: The other's.
        task: What both were measured on.
        metric: How.
        of_student: Lower and upper end.
        of_twin: Lower and upper end.
        is_twin: Whether the other had no teacher; a baseline may be any model.
    """
    other = "a student without a teacher" if is_twin else twin
    if not (of_student[0] <= of_twin[1] and of_twin[0] <= of_student[1]):
        return None
    return Notice(
        f"overlapping {twin} {task} {metric}",
        student,
        f"on {task}, {metric} {bounds(*of_student, metric)} overlaps {twin}'s "
        f"{bounds(*of_twin, metric)}: no difference to {other} is shown",
        "measure more examples, run more seeds and compare them, or give the teacher more to do: "
        "unlabelled prompts, more steps",
    )


def worse_student(
    student: str,
    twin: str,
    task: str,
    metric: str,
    of_student: float,
    of_twin: float,
    *,
    is_clear: bool,
) -> Notice | None:
    """The student is worse than the twin, and not by chance: the teacher does harm.

    Args:
        student: The model's name.
        twin: The other's.
        task: What both were measured on.
        metric: How.
        of_student: What was measured, or its mean over runs.
        of_twin: The same of the other.
        is_clear: The intervals do not overlap; over runs, the difference is a claim.
    """
    gain = of_twin - of_student if is_lower_better(metric) else of_student - of_twin
    if not is_clear or not gain < 0:
        return None
    return Notice(
        f"worse than {twin} {task} {metric}",
        student,
        f"on {task}, {metric} {measured(of_student, metric)} is worse than {twin}'s "
        f"{measured(of_twin, metric)}",
        "see that both had the same shape, data and steps and each a fair "
        "trainer.learning_rate; lower the teacher term's weight, or take a teacher that is better "
        "on this task",
    )


def no_claim(
    student: str,
    twin: str,
    task: str,
    metric: str,
    difference: tuple[float, float, float],
    is_claim: bool,
) -> Notice | None:
    """Over several runs, the student does not differ from the twin for certain.

    Args:
        student: The model's name.
        twin: The baseline's.
        task: What both were measured on.
        metric: How.
        difference: Mean, lower and upper end over runs.
        is_claim: As `llmkd.evaluation.statistics.PairedDifference` says.
    """
    if is_claim:
        return None
    mean, low, high = difference
    return Notice(
        f"no claim {twin} {task} {metric}",
        student,
        f"on {task}, {metric} differs from {twin}'s by {difference_of(mean, metric)} "
        f"{bounds(low, high, metric, sign='+')} over runs, which is no claim",
        "run more seeds (an interval from three is wide), or give the teacher more to do: "
        "unlabelled prompts, more steps",
    )


def began_as_teacher(stage: str, kl: Sequence[float]) -> Notice | None:
    """Before training, the student was its teacher already."""
    first = next(filter(math.isfinite, kl), math.inf)
    if abs(first) >= SAME:
        return None
    return Notice(
        "began as teacher",
        stage,
        f"KL between teacher and student is {number(first)} nats at the first log line: "
        "the student begins as its teacher, so there is nothing to distil",
        "write a smaller student, or another teacher.model_name_or_path",
    )


def not_measured(model: str, task: str, metric: str, value: float) -> Notice | None:
    """A result that is not finite."""
    if math.isfinite(value):
        return None
    return Notice(
        f"not measured {task} {metric}",
        model,
        f"{metric} on {task} is {measured(value, metric)}",
        "look at the model's training curves; a model that diverged has no perplexity",
    )


def first_tenth(values: Sequence[float]) -> float:
    """Mean of the first tenth of the log lines, at least one; NaN without any."""
    return _mean(values[: max(1, len(values) // 10)])


def last_tenth(values: Sequence[float]) -> float:
    """Mean of the last tenth of the log lines, at least one; NaN without any."""
    return _mean(values[-max(1, len(values) // 10) :])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
