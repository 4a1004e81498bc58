"""Verdicts that took long, kept as they come, so that a stage that was killed goes on with the rest."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import xxhash

UNKNOWN = object()
"""What is not in the journal."""


class Journal:
    """Verdicts in the order in which they are asked for: a line of JSON each, in a file.

    Rows come in the same order each time, so the file is read beside them and never held in memory.
    From the first question on that is another than the file's next one, as after a change of the
    recipe or of the data, or where a kill has cut a line, what the file holds is dropped.

    Args:
        path: The file; made with the first verdict.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: IO[bytes] | None = None

    def verdict(self, question: Any, judge: Callable[[], Any]) -> Any:
        """The verdict that is known, or else the judge's, which is kept before it is returned.

        Args:
            question: All that the verdict depends on, as plain data.
            judge: Gives plain data.
        """
        found = self.replayed(question)
        if found is UNKNOWN:
            found = judge()
            self.keep(question, found)
        return found

    def replayed(self, question: Any) -> Any:
        """The verdict that is known of the next question, or `UNKNOWN`."""
        file = self._opened()
        start = file.tell()
        line = file.readline()
        try:
            key, verdict = json.loads(line) if line.endswith(b"\n") else (None, None)
        except (ValueError, TypeError):
            key = verdict = None
        if key == _key(question):
            return verdict
        # What is kept from now on goes here.
        file.truncate(start)
        file.seek(start)
        return UNKNOWN

    def keep(self, question: Any, verdict: Any) -> None:
        """Adds the verdict on the first question that was not known, then on the second, and so on."""
        file = self._opened()
        # A killed process leaves to the system what it has written; a cut line is not counted.
        file.write(json.dumps([_key(question), verdict]).encode() + b"\n")
        file.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
            self._file = self.path.open("r+b")
        return self._file


def _key(question: Any) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(question).encode())
