"""Programs of the user's, each with limits and in a process group of its own."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from typing import IO

from llmkd.curation import limited as limited_program
from llmkd.recipe.curation_steps import VerifyCommandStep


class Programs:
    """Those that run at the same time, so that all can be ended at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leaders = set[int]()
        self._is_over = False

    @contextmanager
    def started(
        self, step: VerifyCommandStep, stdin: IO[bytes]
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Starts a program; its whole group is killed as the block ends.

        Raises:
            CancelledError: `end` was called.
        """
        # Python by itself, without site packages, takes a hundredth of a second.
        limited = [sys.executable, "-I", "-S", limited_program.__file__]
        limits = [str(os.getpid()), str(step.memory_mib * 2**20)]
        with self._lock:
            if self._is_over:
                raise CancelledError
            process = subprocess.Popen(
                [*limited, *limits, *step.command],
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._leaders.add(process.pid)
        try:
            yield process
        finally:
            with self._lock:
                self._leaders.remove(process.pid)
                _kill(process.pid)
            process.wait()

    def end(self) -> None:
        """Kills the programs that run, with all that they started; no other one starts."""
        with self._lock:
            self._is_over = True
            for leader in self._leaders:
                _kill(leader)


def _kill(leader: int) -> None:
    with suppress(ProcessLookupError):  # There is nothing left to kill.
        os.killpg(leader, signal.SIGKILL)
