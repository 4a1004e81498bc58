"""A curate stage: the rows of its data go through its steps, one at a time, into its data set.

STAGE/data.jsonl       the rows that are left
STAGE/undecided.jsonl  where a vote keeps the prompts that it could not decide: these
STAGE/journal/         while it runs: verdicts that took long
STAGE/curation.json    the manifest; its presence says that all is done
"""

import shutil
import signal
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

from llmkd.curation.answers import Answers
from llmkd.curation.contamination import contamination
from llmkd.curation.duplicates import duplicates
from llmkd.curation.extract import extract
from llmkd.curation.journal import Journal
from llmkd.curation.length import length
from llmkd.curation.manifest import MANIFEST, Manifest
from llmkd.curation.prompt import prompt
from llmkd.curation.repetition import repetition
from llmkd.curation.rewrite import rewrite
from llmkd.curation.rows import line_of
from llmkd.curation.select import select
from llmkd.curation.sources import curated_rows
from llmkd.curation.tally import Row, StepError, Stream, Tally
from llmkd.curation.verify import verify
from llmkd.curation.verify_command import verify_command
from llmkd.curation.vote import UNDECIDED, vote
from llmkd.errors import InputError
from llmkd.exit_statuses import of_signal
from llmkd.progress import Progress
from llmkd.recipe.curation import CurateStage
from llmkd.recipe.curation_steps import (
    ContaminationStep,
    CurationStep,
    DuplicatesStep,
    ExtractStep,
    LengthStep,
    PromptStep,
    RepetitionStep,
    RewriteStep,
    SelectStep,
    VerifyCommandStep,
    VerifyStep,
    VoteStep,
)
from llmkd.run_folder import STAGED, replacing, write_atomically

DATA, JOURNALS = "data.jsonl", "journal"


class NothingLeftError(InputError):
    """A step dropped every row."""


@dataclass(frozen=True)
class Setting:
    """What a step may need besides its rows."""

    journal: Journal
    keep: Callable[[Row], None]
    """Takes an undecided prompt."""
    salt: str
    """Of what is drawn at random: another one for each step of each stage."""


def run_curation(stage: CurateStage, folder: Path, *, seed: int, progress: Progress) -> Manifest:
    """Writes what the stage's steps leave of its rows.

    Rows are read, judged and written one by one, or those of one prompt together, so memory does not
    grow with them; but for the index of a step that looks for duplicates or for known texts.

    Args:
        stage: Its references to other stages are already paths.
        folder: The stage's folder; made where it is missing.
        seed: The run's.
        progress: Called with (rows that are left so far, None).

    Raises:
        InputError: Rows that cannot be used, or none is left.
    """
    started = time.monotonic()
    read, tallies = Tally("data"), [Tally(step.kind) for step in stage.steps]
    for left in folder.glob(f".*{STAGED}"):  # By an attempt that was killed.
        left.unlink()
    with _journals(folder), ExitStack() as opened:
        opened.enter_context(_leaving_on_sigterm())
        keep = _undecided_of(stage, folder, opened)
        rows = read.leaving(curated_rows(stage.data))
        for index, (step, tally) in enumerate(zip(stage.steps, tallies, strict=True)):
            journal = Journal(folder / JOURNALS / f"{index}.jsonl")
            opened.callback(journal.close)
            setting = Setting(journal, keep, f"{seed} {folder.name} {index}")
            through = _through(rows, step, index, tally, setting)
            # Whatever comes, a step in the middle of its rows ends now, and so do its programs.
            opened.callback(through.close)
            rows = through
        staged = opened.enter_context(replacing(folder / DATA))
        num_rows = _write(rows, staged, progress)
        _refuse_nothing_left(stage, tallies)
    manifest = Manifest(read.num_out, num_rows, round(time.monotonic() - started, 3), tallies)
    write_atomically(folder / MANIFEST, manifest.text(stage))
    shutil.rmtree(folder / JOURNALS, ignore_errors=True)
    return manifest


@contextmanager
def _leaving_on_sigterm() -> Iterator[None]:
    """Turns SIGTERM into an exception, so that programs that run are killed on the way out."""

    def leave(number: int, _: Any) -> None:
        raise SystemExit(of_signal(number))

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _journals(folder: Path) -> Iterator[None]:
    """Drops the verdicts where they leave nothing, for what gave them may be what is mended."""
    try:
        yield
    except NothingLeftError:
        shutil.rmtree(folder / JOURNALS, ignore_errors=True)
        raise


def _undecided_of(stage: CurateStage, folder: Path, opened: ExitStack) -> Callable[[Row], None]:
    """Where a vote puts the prompts that it keeps undecided."""
    if not any(isinstance(step, VoteStep) and step.undecided == "keep" for step in stage.steps):
        return lambda row: None
    staged = opened.enter_context(replacing(folder / f"{UNDECIDED}.jsonl"))
    file = opened.enter_context(staged.open("wb"))

    def keep(row: Row) -> None:
        file.write(line_of(row))

    return keep


def _write(rows: Iterable[Row], path: Path, progress: Progress) -> int:
    num_rows = 0
    with path.open("wb") as file:
        for num_rows, row in enumerate(rows, 1):
            file.write(line_of(row))
            progress(num_rows, None)
    return num_rows


def _through(
    rows: Stream, step: CurationStep, index: int, tally: Tally, setting: Setting
) -> Generator[Row, None, None]:
    """The rows that a step lets through, counted."""
    try:
        yield from tally.leaving(_applied(tally.entering(rows), step, tally, setting))
    except StepError as error:
        raise InputError(f"steps.{index}.{error.field}: {error.message}") from error


def _applied(rows: Stream, step: CurationStep, tally: Tally, setting: Setting) -> Stream:
    match step:
        case PromptStep():
            return prompt(rows, step)
        case VerifyStep():
            return verify(rows, step, Answers(step, setting.journal), tally)
        case VerifyCommandStep():
            return verify_command(rows, step, setting.journal, tally)
        case VoteStep():
            return vote(rows, step, Answers(step, setting.journal), tally, setting.keep)
        case LengthStep():
            return length(rows, step, tally)
        case RepetitionStep():
            return repetition(rows, step, tally)
        case DuplicatesStep():
            return duplicates(rows, step, tally)
        case ContaminationStep():
            return contamination(rows, step, tally)
        case RewriteStep():
            return rewrite(rows, step, Answers(step, setting.journal), tally)
        case SelectStep():
            return select(rows, step, tally, salt=setting.salt)
        case ExtractStep():
            return extract(rows, step, Answers(step, setting.journal), tally)
        case unknown:
            assert_never(unknown)


def _refuse_nothing_left(stage: CurateStage, tallies: list[Tally]) -> None:
    for index, (step, tally) in enumerate(zip(stage.steps, tallies, strict=True)):
        is_kept = isinstance(step, VoteStep) and step.undecided == "keep"
        if is_kept and any(reason.startswith(UNDECIDED) for reason in tally.dropped):
            continue  # Another teacher is to answer them.
        if tally.num_in and not tally.num_out:
            reasons = ", ".join(f"{reason}: {n}" for reason, n in tally.dropped.most_common())
            raise NothingLeftError(
                f"steps.{index}: {tally.kind} drops all {tally.num_in} rows ({reasons}); write a "
                "step that keeps some, or other data"
            )
