"""Progress of long work on stderr: a bar on a terminal, a plain line now and then elsewhere."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

QUIET = "LLMKD_QUIET"
"""Environment variable that silences progress, here and in child processes."""
SECONDS_BETWEEN_LINES = 10.0

Progress = Callable[..., None]
"""progress(done, total, **figures): what is done so far, of how much if that is known, and figures to
show beside it."""


def say(message: str) -> None:
    """One line on stderr, unless quiet."""
    if not os.environ.get(QUIET):
        tqdm.write(message, file=sys.stderr)


@contextmanager
def progress(label: str) -> Iterator[Progress]:
    """Shows how far a piece of work is.

    Args:
        label: What is going on, at the start of the bar or line.

    Yields:
        A function to call with (done, total) and figures by name, as often as one likes.
    """
    if os.environ.get(QUIET):
        yield lambda done, total, **figures: None
    elif sys.stderr.isatty():
        with tqdm(desc=label, dynamic_ncols=True, leave=False, file=sys.stderr) as bar:
            yield lambda done, total, **figures: _move(bar, done, total, figures)
    else:
        yield _Lines(label)


def _move(bar: tqdm, done: int, total: int | None, figures: dict[str, float]) -> None:
    bar.total = total
    if figures:
        bar.set_postfix_str(_text(figures), refresh=False)
    bar.update(done - bar.n)


class _Lines:
    """A line at the first call, at the end, and every few seconds between."""

    def __init__(self, label: str):
        self.label = label
        self.started = time.monotonic()
        self.last = float("-inf")

    def __call__(self, done: int, total: int | None, **figures: float) -> None:
        now = time.monotonic()
        is_done = total is not None and done >= total
        if now - self.last < SECONDS_BETWEEN_LINES and not is_done:
            return
        self.last = now
        of = "" if total is None else f"/{total}"
        say(f"{self.label}  {done}{of}  {now - self.started:.0f} s  {_text(figures)}".rstrip())


def _text(figures: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in figures.items())
