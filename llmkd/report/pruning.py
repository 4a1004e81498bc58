"""What prune stages cut: importance by layer, with those that went marked, and sizes."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llmkd.report.bar_chart import histogram
from llmkd.report.formats import number
from llmkd.report.line_chart import Mark, Series, line_chart
from llmkd.report.run_files import RunFiles
from llmkd.report.stage_files import Pruning

KEPT, REMOVED = "student-0", "twin-0"
"""Colour classes."""


@dataclass(frozen=True)
class PruningSection:
    """One prune stage."""

    stage: str
    record: Pruning
    charts: list[tuple[str, Markup]]
    """Captions and charts."""
    kept_color: str = KEPT
    removed_color: str = REMOVED

    @property
    def removed(self) -> str:
        """The layers that went, in words."""
        return ", ".join(map(str, self.record.removed_layers)) or "none"

    @property
    def sizes(self) -> list[tuple[str, str, str, str]]:
        """Name, before, after, and what is left in percent."""
        before, after = self.record.before, self.record.after
        return [
            (name, f"{old:,.0f}", f"{after[name]:,.0f}", f"{100 * after[name] / old:.3g} %")
            for name, old in before.items()
            if name in after and old
        ]


def pruning_sections(run: RunFiles) -> list[PruningSection]:
    """A section for each prune stage that is done."""
    return [
        PruningSection(name, stage.pruning, _charts(name, stage.pruning))
        for name, stage in run.stages.items()
        if stage.pruning != Pruning()
    ]


def _charts(name: str, record: Pruning) -> list[tuple[str, Markup]]:
    charts: list[tuple[str, Markup]] = []
    if record.block_influence:
        caption = "Block influence of each layer"
        charts.append((caption, _influence(f"{caption} of {name}", record)))
    num_removed = len(record.removed_layers)
    if 0 < num_removed <= len(record.angular_distances):
        layers = "one layer" if num_removed == 1 else f"{num_removed} layers"
        caption = f"Angular distance over {layers}, by the first of them"
        distances = record.angular_distances[num_removed - 1]
        charts.append((caption, _distances(f"{caption}, in {name}", distances, record)))
    return charts


def _influence(label: str, record: Pruning) -> Markup:
    removed = set(record.removed_layers)
    bars = {
        kind: [
            (layer - 0.5, layer + 0.5, value if (layer in removed) == is_removed else 0.0)
            for layer, value in enumerate(record.block_influence)
        ]
        for kind, is_removed in (("stays", False), ("removed", True))
    }
    counts = [("stays", KEPT, bars["stays"]), ("removed", REMOVED, bars["removed"])]
    said = "; ".join(f"{n}: {number(value)}" for n, value in enumerate(record.block_influence))
    gone = ", ".join(map(str, record.removed_layers)) or "none"
    return histogram(counts, label=f"{label} ({said}); removed: {gone}", x_label="layer")


def _distances(label: str, distances: Sequence[float], record: Pruning) -> Markup:
    first, last = record.removed_layers[0], record.removed_layers[-1]
    is_block = last - first + 1 == len(record.removed_layers)
    points = [(float(layer), value) for layer, value in enumerate(distances)]
    mark = Mark(float(first), "removed from here") if is_block else None
    series = [Series("distance", KEPT, points, has_dots=True)]
    return line_chart(series, label=label, x_label="first layer", has_zero=True, mark=mark)
