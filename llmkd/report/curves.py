"""Training curves: a chart per metric, in which the stages of a recipe stand side by side."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llmkd.recipe.schema import TrainStage
from llmkd.report.formats import number
from llmkd.report.line_chart import Series, line_chart
from llmkd.report.run_files import Line, RunFiles, StageRun
from llmkd.report.symptoms import cross_entropy_name

MOST_POINTS = 200
"""Per line; more log lines than that are averaged in groups."""
HEADS = {
    "loss": "Loss: the weighted sum of the terms",
    "teacher_mse": "Teacher's mean squared error on the labels",
    "kl": "KL between teacher and student, nats per token; of classifiers, per text",
    "grad_norm": "Gradient norm",
    "tokens_per_s": "Tokens per second; of classifiers, texts",
    "reward": "Reward: the weighted sum of all",
    "completions/mean_length": "Length of responses, tokens",
    "completions/clipped_ratio": "Share of responses that were cut",
    "entropy": "Entropy of the student at a token, nats",
    "frac_reward_zero_std": "Share of groups whose rewards are all equal, which teach GRPO nothing",
    "kd/reverse_kl": "KL of the student from its teacher on its own responses, nats per token",
    "kd/coefficient": "Coefficient of the distillation term",
    "kd/responses": "Share of responses that are imitated",
    "learning_rate": "Learning rate",
    "peak_memory_gib": "Peak memory, GiB",
}
"""Metrics with a chart of their own, in this order; others that are drawn are `loss/` and
`grad_norm/` of a term."""
ROLLOUTS = (
    "reward",
    "completions/mean_length",
    "completions/clipped_ratio",
    "entropy",
    "frac_reward_zero_std",
    "kd/reverse_kl",
    "kd/coefficient",
    "kd/responses",
)
"""Of trainings on the student's own responses."""
VALIDATION = "validation/"
VALIDATED = ("completions/mean_length", "completions/clipped_ratio")
"""What is drawn of a validation beside its rewards."""
AMOUNTS = ("tokens_per_s", "learning_rate", "peak_memory_gib")
"""Drawn from 0, never on a logarithmic axis."""
OWN_AND_TEACHERS = "teacher_nll"


@dataclass(frozen=True)
class Curve:
    """One chart with its heading."""

    title: str
    chart: Markup


def curves(runs: Sequence[RunFiles], colors: Mapping[str, str]) -> list[Curve]:
    """The charts of all train stages; over several runs, means with a band from least to most.

    Args:
        runs: Of one recipe.
        colors: CSS class per stage.
    """
    found = []
    for metric in _metrics(runs):
        lines = list(_series(runs, metric, colors))
        if lines:
            title = _title(metric, lines)
            found.append(Curve(title, _chart(title, metric, lines)))
    return found


def group_size(runs: Sequence[RunFiles]) -> int:
    """How many log lines a point stands for, in the longest stage."""
    longest = max((len(s.metrics) for run in runs for s in run.stages.values()), default=0)
    return -(-longest // MOST_POINTS) or 1


def thinned(points: Sequence[tuple[float, float]], size: int) -> list[tuple[float, float]]:
    """Means of `size` neighbours, each at its last step; a gap stays a gap."""
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _metrics(runs: Sequence[RunFiles]) -> list[str]:
    """What was logged and is drawn, in order: losses, teacher, gradient, speed."""
    stages = [stage for run in runs for stage in run.stages.values()]
    logged = dict.fromkeys(name for stage in stages for line in stage.metrics for name in line)
    validated = dict.fromkeys(
        name for stage in stages for line in stage.validation for name in line
    )
    of_terms = [name for name in logged if name.startswith("loss/")]
    norms = [name for name in logged if name.startswith("grad_norm/")]
    looks = [*filter(_is_reward, validated), *(name for name in VALIDATED if name in validated)]
    before, after = ["loss", *of_terms, OWN_AND_TEACHERS, "teacher_mse", "kl", "grad_norm"], AMOUNTS
    rewards = [name for name in logged if _is_reward(name)]
    found = [name for name in (*rewards, *ROLLOUTS, *before, *norms, *after) if name in logged]
    return [*(f"{VALIDATION}{name}" for name in looks), *found]


def _is_reward(name: str) -> bool:
    return name.startswith("rewards/") and name.endswith("/mean")


def _lines_of(stage: StageRun, metric: str) -> list[Line]:
    """The log lines that have a metric, or may have it, under that name."""
    if not metric.startswith(VALIDATION):
        return stage.metrics
    own = metric.removeprefix(VALIDATION)
    return [{"step": line["step"], metric: line[own]} for line in stage.validation if own in line]


def _series(runs: Sequence[RunFiles], metric: str, colors: Mapping[str, str]) -> Iterator[Series]:
    for name, stage in runs[0].recipe.stages.items():
        lines = [_lines_of(run.stages[name], metric) for run in runs if name in run.stages]
        if metric == OWN_AND_TEACHERS and isinstance(stage, TrainStage):
            own = cross_entropy_name(stage)
            if any(metric in line for of_run in lines for line in of_run) and own is not None:
                yield from _line(f"{name}, own", lines, own, colors[name])
            yield from _line(f"{name}, its teacher's", lines, metric, colors[name], is_dashed=True)
        else:
            yield from _line(name, lines, metric, colors.get(name, "other-0"))


def _line(
    name: str, runs: Sequence[Sequence[Line]], metric: str, color: str, *, is_dashed: bool = False
) -> Iterator[Series]:
    logged = [[(line["step"], line[metric]) for line in lines if metric in line] for lines in runs]
    # One size for all runs: means over runs need the same steps.
    size = -(-max(map(len, logged), default=0) // MOST_POINTS) or 1
    of_runs = [thinned(points, size) for points in logged if points]
    if len(of_runs) == 1:
        yield Series(name, color, of_runs[0], is_dashed)
    elif of_runs:
        points, band = mean_and_band(of_runs)
        yield Series(name, color, points, is_dashed, band)


def mean_and_band(
    runs: Sequence[Sequence[tuple[float, float]]],
) -> tuple[list[tuple[float, float]], list[tuple[float, float, float]]]:
    """Mean, least and most over runs, at the steps that they share.

    A run that has not come so far is not counted; where a run is not finite, neither is the mean.
    """
    values = [dict(points) for points in runs]
    last = [max(of_run) for of_run in values]
    at = {
        x: [of_run[x] for of_run in values if x in of_run]
        for x in sorted({x for of_run in values for x in of_run})
        if all(x in of_run or x > end for of_run, end in zip(values, last, strict=True))
    }
    means = [(x, sum(ys) / len(ys)) for x, ys in at.items()]
    return means, [(x, min(ys), max(ys)) for x, ys in at.items() if all(map(math.isfinite, ys))]


def _title(metric: str, lines: Sequence[Series]) -> str:
    if metric == OWN_AND_TEACHERS:
        if all(line.is_dashed for line in lines):
            return "Teacher's loss on the student's text"
        return "Loss on the text: student's own (solid), teacher's (dashed)"
    if metric.startswith("loss/"):
        return f"Term {metric.removeprefix('loss/')}"
    if metric.startswith("grad_norm/"):
        return f"Gradient norm of {metric.removeprefix('grad_norm/')}"
    own = metric.removeprefix(VALIDATION)
    title = f"Mean reward of {own.split('/')[1]}" if _is_reward(own) else HEADS[own]
    return title if own == metric else f"Validation: {title[0].lower()}{title[1:]}"


def _chart(title: str, metric: str, lines: Sequence[Series]) -> Markup:
    ends = "; ".join(_ends(line) for line in lines)
    return line_chart(
        lines,
        label=f"{title}. {ends}",
        x_label="step",
        may_be_log=metric not in AMOUNTS,
        has_zero=metric in AMOUNTS,
        x_from_zero=True,
    )


def _ends(line: Series) -> str:
    return f"{line.name}: {number(line.points[0][1])} to {number(line.points[-1][1])}"
