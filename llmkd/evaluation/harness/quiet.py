"""Keeps lm-eval's log, bars and prints off the terminal, and counts what it says was cut."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from llmkd.progress import Progress


class _Cuts(logging.Handler):
    """Counts the warnings of lm-eval that a text was too long for the model."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "runcat" in record.getMessage()


@contextmanager
def quiet() -> Iterator[_Cuts]:
    """Nothing of what lm-eval says in the block is shown.

    Yields:
        How often a text was cut.
    """
    logger, cuts = logging.getLogger("lm_eval"), _Cuts()
    before = logger.propagate, logger.level
    logger.addHandler(cuts)
    logger.propagate = False
    try:
        with (
            Path(os.devnull).open("w") as nowhere,
            redirect_stdout(nowhere),
            redirect_stderr(nowhere),
        ):
            yield cuts
    finally:
        logger.removeHandler(cuts)
        logger.propagate, logger.level = before


def heard(progress: Progress) -> Progress:
    """Progress that is shown all the same."""
    stderr = sys.stderr

    def moved(done: int, total: int) -> None:
        with redirect_stderr(stderr):
            progress(done, total)

    return moved
