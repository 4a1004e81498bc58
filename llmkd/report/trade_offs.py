"""Quality against cost: shares of right answers over a model's size, and over the tokens it takes."""

import math
from collections.abc import Mapping, Sequence

from llmkd.evaluation.metric_names import is_lower_better, is_quality, is_share
from llmkd.report.line_chart import Series, line_chart
from llmkd.report.sections import Figure
from llmkd.report.stage_files import Details
from llmkd.report.verdict import Group

TOKENS = "tokens"


def trade_offs(
    groups: Sequence[Group], details: Sequence[Details], colors: Mapping[str, str]
) -> list[Figure]:
    """A chart per task and share of right answers, where two models or more differ in cost.

    Args:
        groups: What was measured.
        details: Of the evaluate stages, which know the models' sizes.
        colors: Of the models.
    """
    sizes = {model: float(n) for part in details for model, n in part.parameters.items()}
    tokens = {
        (group.suite, group.task): {row.model: row.value for row in group.rows}
        for group in groups
        if group.metric == TOKENS
    }
    figures = []
    for group in groups:
        if (
            is_share(group.metric)
            and is_quality(group.metric)
            and not is_lower_better(group.metric)
        ):
            of_task = tokens.get((group.suite, group.task), {})
            for costs, unit in ((sizes, "parameters"), (of_task, "tokens per answer")):
                figures += _figure(group, costs, unit, colors)
    return figures


def _figure(
    group: Group, costs: Mapping[str, float], unit: str, colors: Mapping[str, str]
) -> list[Figure]:
    known = [row for row in group.rows if math.isfinite(costs.get(row.model, math.nan))]
    if len({costs[row.model] for row in known}) < 2:
        return []
    dots = [
        Series(
            row.model,
            colors.get(row.model, "other-0"),
            [(costs[row.model], 100 * row.value)],
            has_dots=True,
        )
        for row in known
    ]
    label = f"{group.task}, {group.metric} in percent against {unit}"
    chart = line_chart(dots, label=label, x_label=unit, x_may_be_log=True)
    caption = "; ".join(
        f"{row.model} {100 * row.value:.1f} % at {costs[row.model]:,.0f}" for row in known
    )
    return [Figure(f"{group.task}: {group.metric} against {unit}", chart, caption)]
