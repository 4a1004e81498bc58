"""What merge stages made of which models, and how far these are apart."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from llmkd.recipe.base import STAGE_REFERENCE
from llmkd.recipe.merging import MergeStage
from llmkd.report.formats import number
from llmkd.report.line_chart import Series, line_chart
from llmkd.report.run_files import RunFiles
from llmkd.report.stage_files import Merging


@dataclass(frozen=True)
class MergingSection:
    """One merge stage."""

    stage: str
    method: str
    models: list[str]
    """The base first."""
    merging: Merging
    chart: Markup | None
    caption: str


def merging_sections(run: RunFiles, colors: Mapping[str, str]) -> list[MergingSection]:
    """A section for each merge stage that is done."""
    return [
        _section(name, part.stage, part.merging, colors)
        for name, part in run.stages.items()
        if isinstance(part.stage, MergeStage) and part.merging != Merging()
    ]


def _section(
    name: str, stage: MergeStage, merging: Merging, colors: Mapping[str, str]
) -> MergingSection:
    names = {key: model.removeprefix(STAGE_REFERENCE) for key, model in stage.inputs.items()}
    method = ", ".join(
        f"{key} {value}" if key != "kind" else str(value)
        for key, value in stage.method.model_dump(exclude={"base"}).items()
        if value is not None
    )
    return MergingSection(
        name,
        method,
        [*names.values()],
        merging,
        _chart(name, names, merging, colors),
        _caption(names, merging),
    )


def _chart(
    stage: str, names: Mapping[str, str], merging: Merging, colors: Mapping[str, str]
) -> Markup | None:
    """The cosine of each layer's tensors, mean and lowest; None where there are no two layers."""
    series = []
    for key, name in names.items():
        layers = [one for one in merging.cosines if one.model == key and one.layer is not None]
        points = [(float(one.layer or 0), one.mean) for one in layers if math.isfinite(one.mean)]
        band = [(float(one.layer or 0), one.lowest, one.mean) for one in layers]
        if len(points) > 1:
            series.append(Series(name, colors.get(name, "other-0"), points, band=band))
    first = next(iter(names.values()))
    label = f"{stage}: cosine of the weights with those of {first}, layer by layer"
    return line_chart(series, label=label, x_label="layer", x_is_whole=True) if series else None


def _caption(names: Mapping[str, str], merging: Merging) -> str:
    """The tensor that is furthest apart."""
    known = [one for one in merging.cosines if math.isfinite(one.lowest) and one.model in names]
    if not known:
        return ""
    lowest = min(known, key=lambda one: one.lowest)
    return (
        f"Lines are means over a layer's tensors, bands reach down to the lowest: {number(lowest.lowest)}, "
        f"{lowest.lowest_tensor} of {names[lowest.model]}."
    )
