"""`verify_command`: a program of the user's says which rows stay."""

import os
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from llmkd.curation.journal import UNKNOWN, Journal
from llmkd.curation.limited import UNSTARTED
from llmkd.curation.programs import Programs
from llmkd.curation.rows import line_of
from llmkd.curation.tally import Row, StepError, Stream, Tally
from llmkd.recipe.curation_steps import VerifyCommandStep
from llmkd.run_folder import digest

ACCEPTED = "accepted"
NUM_AT_ONCE = os.cpu_count() or 1
"""Programs that run at the same time; each has a thread that waits for it."""


def verify_command(rows: Stream, step: VerifyCommandStep, journal: Journal, tally: Tally) -> Stream:
    """Rows for which the program ends with exit status 0, in their order.

    Each program is a process group of its own, which is killed as a whole when its time is up, and
    whatever is left of it when it ends. How a program failed is the reason for which its row is
    dropped: `timed out`, `exit status 3`, `killed by signal 11`. Out of memory, most programs end with
    an exit status.

    Raises:
        StepError: A program cannot be started.
    """
    for row, verdict in _verdicts(rows, step, journal):
        if verdict == ACCEPTED:
            yield row
        else:
            tally.drop(verdict)


def _verdicts(rows: Stream, step: VerifyCommandStep, journal: Journal) -> Iterator[tuple[Row, str]]:
    """Each row with its verdict; a few rows ahead are asked about already."""
    # A program that was mended is another one, and is asked anew.
    files = [digest(Path(path)) for path in step.files.values()]
    settings = [str(step.timeout_s), str(step.memory_mib), *step.command, files]
    programs = Programs()
    pool = ThreadPoolExecutor(NUM_AT_ONCE)
    waiting: deque[tuple[Row, list[Any], Future[str] | str]] = deque()
    try:
        for row in rows:
            question = [*settings, line_of(row).decode()]
            known = journal.replayed(question)
            found = pool.submit(verdict_of, row, step, programs) if known is UNKNOWN else known
            waiting.append((row, question, found))
            if len(waiting) > NUM_AT_ONCE:
                yield _settled(*waiting.popleft(), journal)
        while waiting:
            yield _settled(*waiting.popleft(), journal)
    finally:
        programs.end()
        pool.shutdown(cancel_futures=True)


def _settled(
    row: Row, question: list[Any], found: Future[str] | str, journal: Journal
) -> tuple[Row, str]:
    if isinstance(found, str):
        return row, found
    verdict = found.result()
    journal.keep(question, verdict)
    return row, verdict


def verdict_of(row: Row, step: VerifyCommandStep, programs: Programs) -> str:
    """What the program makes of a row: `accepted`, or how else it ended."""
    is_late = False
    with _file_with(line_of(row)) as file, programs.started(step, file) as process:
        try:
            process.wait(step.timeout_s)
        except subprocess.TimeoutExpired:
            is_late = True
    if process.returncode == UNSTARTED:
        raise StepError(
            "command",
            f"{step.command[0]} cannot be started within {step.memory_mib} MiB; write a program that "
            "may be run (a script needs its #! line), and a memory_mib that this machine allows. "
            f"Exit status {UNSTARTED} says so: write another one where it is your program's own",
        )
    return "timed out" if is_late else _ended(process.returncode)


@contextmanager
def _file_with(line: bytes) -> Iterator[IO[bytes]]:
    """A file without a name: a pipe would wait for whoever holds it and does not read."""
    with tempfile.TemporaryFile() as file:
        file.write(line)
        file.seek(0)
        yield file


def _ended(status: int) -> str:
    if status >= 0:
        return f"exit status {status}" if status else ACCEPTED
    return f"killed by signal {-status}"
