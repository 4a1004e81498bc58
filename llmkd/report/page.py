"""The page: what the template is given, and the HTML that comes of it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmkd.evaluation.references import published
from llmkd.report.curation import curation_sections
from llmkd.report.curves import curves, group_size
from llmkd.report.merging import merging_sections
from llmkd.report.notices import Notice
from llmkd.report.palette import model_colors
from llmkd.report.pruning import pruning_sections
from llmkd.report.roles import find_roles, teachers_of
from llmkd.report.run_files import RunFiles
from llmkd.report.samples import cards
from llmkd.report.sections import answer_figures, data_sections, verdict_chart
from llmkd.report.stage_files import Details
from llmkd.report.symptoms import result_notices, stage_notices
from llmkd.report.template import rendered
from llmkd.report.trade_offs import trade_offs
from llmkd.report.verdict import Group, groups_of_records
from llmkd.run_plan import RESOLVED_RECIPE


@dataclass(frozen=True)
class Told:
    """A notice for all that it is about."""

    subjects: Sequence[str]
    """Stages or models."""
    notice: Notice
    seeds: Sequence[int] = ()
    """Which of several runs show it; none where it is about all of them together."""


def page(
    runs: Sequence[RunFiles],
    groups: Sequence[Group],
    *,
    comparison_problem: str | None = None,
    differing: Sequence[str] = (),
) -> str:
    """The report as HTML: one file, which loads nothing.

    Args:
        runs: At least one, of one recipe with different seeds.
        groups: What was measured: over examples for one run, over runs for several.
        comparison_problem: Why several runs could not be compared.
        differing: Keys in which the runs' recipes differ.
    """
    return rendered(
        "report.html",
        runs=runs,
        is_several=len(runs) > 1,
        comparison_problem=comparison_problem,
        differing=differing,
        notices=told(runs, groups),
        problems=[problem for run in runs for problem in run.problems],
        has_evidence=bool(groups)
        or any(s.has_evidence for run in runs for s in run.stages.values()),
        group_size=group_size(runs),
        **_content(runs, groups),
    )


def _content(runs: Sequence[RunFiles], groups: Sequence[Group]) -> dict[str, Any]:
    """What is drawn and written out of the runs; samples and data are the first run's."""
    first = runs[0]
    roles = find_roles(first.recipe)
    colors = model_colors(roles)
    details = [stage.details for stage in first.stages.values()]
    return {
        "first": first,
        "roles": roles,
        "colors": colors,
        "groups": [(group, verdict_chart(group, colors)) for group in groups],
        "curves": curves(runs, colors),
        "cards": [card for part in details for card in cards(part.samples, colors)],
        "figures": [figure for part in details for figure in answer_figures(part, colors)],
        "figure_models": _models(details),
        "published": published(),
        "trade_offs": trade_offs(groups, details, colors),
        "curation": curation_sections(first),
        "merging": merging_sections(first, colors),
        "pruning": pruning_sections(first),
        "data": data_sections(first, colors),
        "repeat": repeat_command(first),
        "ended": ended(first),
        "environment": flat(first.environment),
        "resolved_recipe": RESOLVED_RECIPE,
    }


def told(runs: Sequence[RunFiles], groups: Sequence[Group]) -> list[Told]:
    """All notices, results first. The same one of several seeds is told with the first's numbers.

    Those that say the same of several stages are told once.
    """
    found: dict[tuple[str, str], tuple[Notice, tuple[int, ...]]] = {
        (notice.subject, notice.kind): (notice, ()) for notice in result_notices(groups)
    }
    for run in runs:
        for notice in stage_notices(run):
            key = (notice.subject, notice.kind)
            first, seeds = found.get(key, (notice, ()))
            found[key] = (first, (*seeds, run.recipe.seed))
    subjects: dict[tuple[str, str, tuple[int, ...]], list[Notice]] = {}
    for notice, seeds in found.values():
        subjects.setdefault((notice.found, notice.advice, seeds), []).append(notice)
    return [
        Told([notice.subject for notice in notices], notices[0], seeds)
        for (*_, seeds), notices in subjects.items()
    ]


def groups_of_one(run: RunFiles, baseline: str | None = None) -> list[Group]:
    """A single run's results, grouped."""
    roles = find_roles(run.recipe)
    differences = [one for s in run.stages.values() for one in s.details.differences]
    return groups_of_records(run.records, roles, teachers(run), baseline, differences)


def teachers(run: RunFiles) -> dict[str, list[str]]:
    """Which models each train stage learns from."""
    return {name: teachers_of(run.recipe, name) for name in run.recipe.stages}


def repeat_command(run: RunFiles) -> str:
    """What to type to do the run again, beside the old one."""
    folder = run.folder.resolve()
    again = f"{folder.name or run.recipe.name}-again"
    recipe = str(folder / RESOLVED_RECIPE)
    return shlex.join(["llmkd", "train", recipe, f"output_dir=runs/{again}"])


def ended(run: RunFiles) -> str | None:
    """When the last stage was at work."""
    moments = [s.state.ended for s in run.stages.values() if s.state and s.state.ended]
    return max(moments, default=None)


def flat(content: Mapping[str, object]) -> list[tuple[str, str]]:
    """Nested names and values as rows; the command has its own place on the page."""
    rows: list[tuple[str, str]] = []
    for name, value in content.items():
        if isinstance(value, dict):
            rows += flat(value)
        elif name != "command":
            rows.append((name, str(value)))
    return rows


def _models(details: Sequence[Details]) -> list[str]:
    items = [item for part in details for item in (*part.lengths, *part.reliability)]
    return list(dict.fromkeys(item.model for item in items))
