"""Answers that are kept as they come, so that a killed evaluation goes on with those that are left."""

import json
import os
from collections.abc import Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from llmkd.run_folder import fingerprint

Answer = dict[str, Any]
"""What is kept of one example: plain data."""


class Kept:
    """What one model gave on one task, a line of JSON per example, in a file.

    A kill cuts at most the last line, which is then not counted; nor is what follows a line that a
    broken disk has damaged. What was kept under other settings is not taken.

    Args:
        path: The file; None keeps everything in memory alone.
        settings: All that an answer depends on, as plain data.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]):
        self.path = path
        self.head = {"settings": fingerprint(dict(settings))}
        self.answers: dict[int, Answer] = {}
        if path is not None:
            self._read(path)

    def has_all(self, examples: Iterable[int]) -> bool:
        """Whether the answers of all these examples are there, so that a batch may be left out."""
        return all(example in self.answers for example in examples)

    def add(self, answers: Mapping[int, Answer]) -> None:
        """Keeps the answers of some examples, on the disk before it returns."""
        self.answers.update(answers)
        if self.path is not None and answers:
            lines = [_line({"example": i, **answer}) for i, answer in answers.items()]
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(lines))
                file.flush()
                os.fsync(file.fileno())

    def in_order(self) -> list[Answer]:
        """The answers in the order of their examples."""
        return [self.answers[i] for i in sorted(self.answers)]

    def _read(self, path: Path) -> None:
        content = path.read_bytes() if path.exists() else b""
        raw = list(takewhile(_is_whole, content.splitlines(keepends=True)))
        lines = [json.loads(line) for line in raw]
        whole = b"".join(raw)
        if lines[:1] == [self.head]:
            self.answers = {line.pop("example"): line for line in lines[1:]}
        else:
            whole = _line(self.head).encode()
        if whole != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(whole)


def _is_whole(line: bytes) -> bool:
    try:
        content = json.loads(line)
    except ValueError:
        return False
    is_known = isinstance(content, dict) and ("example" in content or "settings" in content)
    return is_known and line.endswith(b"\n")


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content) + "\n"
