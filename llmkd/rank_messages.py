"""What the processes of one training say when they fail: what all of them say, once. Imports no torch."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

FOLDER = "LLMKD_RANK_MESSAGES"
"""Environment variable with the folder in which processes leave for llmkd's launcher what they say."""
_MAIN = "main"


def rank() -> int | None:
    """Which of several processes this is, over all machines; None where it is alone."""
    number = os.environ.get("RANK", "")
    return int(number) if "LOCAL_RANK" in os.environ and number.isdecimal() else None


def error_log() -> str:
    """The name of the file for this process's traceback, beside which others write theirs."""
    return f"error-rank-{number}.log" if (number := rank()) else "error.log"


def tell(message: str) -> None:
    """Says on stderr why this process fails, or has llmkd's launcher say it, if it is not said already.

    A machine's first process speaks for itself, at once.
    """
    folder, number = os.environ.get(FOLDER), rank()
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"
    if folder and number is not None:
        with suppress(OSError):
            (Path(folder) / (_MAIN if is_first else str(number))).write_text(message)
            if not is_first:
                return
    print(message, file=sys.stderr)  # noqa: T201


@contextmanager
def others_told() -> Iterator[None]:
    """The block starts processes and waits; then what the first of them has not said is said for others."""
    with TemporaryDirectory(prefix="llmkd-", ignore_cleanup_errors=True) as folder:
        os.environ[FOLDER] = folder
        try:
            yield
        finally:
            said = {path.name: path.read_text() for path in Path(folder).iterdir()}
            told = {_anybodys(said.pop(_MAIN, ""))}
            for number, message in sorted(said.items(), key=lambda each: int(each[0])):
                text = _anybodys(message)
                if text not in told:
                    told.add(text)
                    print(f"rank {number}: {message}", file=sys.stderr)  # noqa: T201


def _anybodys(message: str) -> str:
    """Without the rank: one traceback is in several files."""
    return re.sub(r"error-rank-\d+\.log", "error.log", message)
