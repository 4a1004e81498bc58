"""What curate stages did to their rows: a table and a funnel for each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llmkd.report.formats import number, shortened
from llmkd.report.run_files import RunFiles
from llmkd.report.stage_files import Curation, StepCounts
from llmkd.report.svg import element

WIDTH, ROW, BAR = 360.0, 34.0, 12.0
LONGEST_NAME = 34


@dataclass(frozen=True)
class CurationSection:
    """One curate stage."""

    stage: str
    counts: Curation
    chart: Markup

    @property
    def rows(self) -> list[tuple[StepCounts, str, str]]:
        """Of each step: its counts, why rows were dropped, and what else was counted."""
        return [(step, _listed(step.dropped), _listed(step.counted)) for step in self.counts.steps]


def curation_sections(run: RunFiles) -> list[CurationSection]:
    """A section for each curate stage that is done."""
    return [
        CurationSection(name, stage.curation, _funnel(name, stage.curation))
        for name, stage in run.stages.items()
        if stage.curation != Curation()
    ]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{what}\N{NO-BREAK SPACE}{number(n)}" for what, n in counts.items())


def _funnel(name: str, counts: Curation) -> Markup:
    """A bar for the rows that were read, and one for those that each step left."""
    bars = [("read", counts.num_in)]
    bars += [(f"{i}. {step.kind}", step.num_out) for i, step in enumerate(counts.steps, 1)]
    label = "; ".join(f"{bar}: {number(rows)} rows" for bar, rows in bars)
    most = max(1, *(rows for _, rows in bars))
    return element(
        "svg",
        *_bars(bars, most),
        viewBox=f"0 0 {WIDTH:.0f} {ROW * len(bars):.0f}",
        class_="chart funnel",
        role="img",
        aria_label=f"Rows that each step of {name} left: {label}",
    )


def _bars(bars: Sequence[tuple[str, int]], most: int) -> Iterator[Markup]:
    for index, (name, rows) in enumerate(bars):
        top = ROW * index
        yield element("text", shortened(name, LONGEST_NAME), x=0, y=top + 14, class_="name")
        yield element("text", number(rows), x=WIDTH, y=top + 14, class_="value", text_anchor="end")
        for width, kind in ((WIDTH, "band"), (WIDTH * rows / most, "dot")):
            yield element(
                "rect", x=0, y=top + 18, width=width, height=BAR, class_=f"{kind} other-0"
            )
