"""Stand-ins for what stages would write: some rows of a curate stage, a merge stage's first model."""

import json
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from pathlib import Path

from llmkd.curation.manifest import MANIFEST
from llmkd.curation.rewrite import IS_REWRITTEN
from llmkd.curation.rows import NUMBER, line_of, without_completion
from llmkd.curation.run import DATA
from llmkd.curation.sources import named_rows
from llmkd.curation.tally import Row
from llmkd.curation.vote import UNDECIDED
from llmkd.merging.files import num_bytes
from llmkd.merging.merge import opened
from llmkd.recipe.curation import Concatenation, CurateStage, RowsMixture
from llmkd.recipe.curation_steps import CuratedRows, ExtractStep, RewriteStep, VerifyStep, VoteStep
from llmkd.recipe.merging import MergeStage

MOST_ROWS = 256


def write_curated(stage: CurateStage, folder: Path) -> None:
    """Writes the first rows, with the columns that steps add; no step judges them.

    A stand-in for a teacher answers nothing right, so that steps would leave none of its rows.
    """
    sources = _sources(stage)
    most = MOST_ROWS // len(sources)
    read = chain.from_iterable(islice(named_rows(source), most) for source in sources)
    rows = [row | _added(stage, number) for number, row in enumerate(read)]
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


def _sources(stage: CurateStage) -> Sequence[CuratedRows]:
    """Those whose rows come out."""
    for step in stage.steps:
        if isinstance(step, RewriteStep):
            return [step.originals]
    match stage.data:
        case list() as sources:
            return sources
        case Concatenation(sources=sources) | RowsMixture(sources=sources):
            return sources
        case source:
            return [source]


def _added(stage: CurateStage, number: int) -> Row:
    """What steps write into columns of their own."""
    added: Row = {}
    for step in stage.steps:
        match step:
            case ExtractStep(column=str(column)) | VoteStep(answer_column=str(column)):
                labels = step.labels or ["0"]
                added[column] = labels[number % len(labels)]
            case VerifyStep(keep="all"):
                added["is_right"] = number % 2 == 0
            case RewriteStep():
                added |= {NUMBER: number, IS_REWRITTEN: number % 2 == 0}
    return added
