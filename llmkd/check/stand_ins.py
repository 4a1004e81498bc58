"""Stand-ins for what stages would write: some rows of a curate stage, a merge stage's first model."""

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from llmkd.curation.manifest import MANIFEST
from llmkd.curation.rows import line_of, without_completion
from llmkd.curation.run import DATA
from llmkd.curation.sources import named_rows
from llmkd.curation.tally import Row
from llmkd.curation.vote import UNDECIDED
from llmkd.merging.files import num_bytes
from llmkd.merging.merge import opened
from llmkd.recipe.curation import Concatenation, CurateStage, RowsMixture
from llmkd.recipe.curation_steps import CuratedRows, ExtractStep, RewriteStep, VoteStep
from llmkd.recipe.merging import MergeStage

MOST_ROWS = 256


def write_curated(stage: CurateStage, folder: Path) -> None:
    """Writes the first rows, with the columns that steps add; no step judges them.

    A stand-in for a teacher answers nothing right, so that steps would leave none of its rows.
    """
    rows = [
        row | _added(stage, number)
        for number, row in enumerate(islice(named_rows(_first_source(stage)), MOST_ROWS))
    ]
    write_rows(folder / DATA, rows)
    write_rows(folder / f"{UNDECIDED}.jsonl", map(without_completion, rows))
    counts = {"num_in": len(rows), "num_out": len(rows), "steps": []}
    (folder / MANIFEST).write_text(json.dumps(counts))


def link_first_model(stage: MergeStage, folder: Path) -> None:
    """Looks at the models and tries one tensor; the first model stands in for the merged one.

    Raises:
        InputError: They cannot be merged.
    """
    work = opened(stage)
    first = work.models[0]
    work.tensor(min(first.headers, key=lambda name: num_bytes(first.headers[name])))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model").symlink_to(first.folder.absolute())


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(map(line_of, rows)))


def _first_source(stage: CurateStage) -> CuratedRows:
    for step in stage.steps:
        if isinstance(step, RewriteStep):
            return step.originals
    match stage.data:
        case [source, *_] | Concatenation(sources=[source, *_]) | RowsMixture(sources=[source, *_]):
            return source
        case CuratedRows() as source:
            return source
    raise AssertionError(stage.data)


def _added(stage: CurateStage, number: int) -> Row:
    """What steps write into columns of their own."""
    added: Row = {}
    for step in stage.steps:
        match step:
            case ExtractStep(column=str(column)) | VoteStep(answer_column=str(column)):
                labels = step.labels or ["0"]
                added[column] = labels[number % len(labels)]
    return added
