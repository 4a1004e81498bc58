"""Child processes: started, waited for, and ended with this one. Imports no torch."""

import os
import signal
import subprocess
from dataclasses import dataclass
from typing import Any

from llmkd.errors import LlmkdError
from llmkd.exit_statuses import BAD_INPUT, FAILED, TERMINATED, as_subprocess
from llmkd.failure import DEBUG

STDERR = 2


class ChildFailedError(LlmkdError):
    """A child ended otherwise than well; it has said why on stderr."""

    def __init__(self, message: str, exit_status: int):
        super().__init__(message)
        self.exit_status = exit_status


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Args:
        status: Its exit status; below 0 the number of the signal that killed it, or one of its own.
        is_terminated: Whether this process got SIGTERM meanwhile, and passed it on.
    """

    status: int
    is_terminated: bool

    @property
    def exit_status(self) -> int:
        """What the command line's own is because of it."""
        # One of several processes may have got it, and told the others.
        if self.is_terminated or self.status == -signal.SIGTERM:
            return TERMINATED
        return self.status if self.status in (0, BAD_INPUT) else FAILED


def run_child(command: list[str], *descriptors: int) -> Ended:
    """Runs a program to its end.

    Args:
        command: The program and its arguments.
        descriptors: Open files that it inherits.
    """
    # stdout is for results alone, and libraries print there, so what a child prints is on stderr.
    # Nothing may wait for an answer, as a tracker without a login would; a debugger may.
    stdin = None if os.environ.get(DEBUG) else subprocess.DEVNULL
    child = subprocess.Popen(command, pass_fds=descriptors, stdin=stdin, stdout=STDERR)
    is_terminated = False

    def terminate(*_: Any) -> None:
        nonlocal is_terminated
        is_terminated = True
        child.terminate()

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        status = child.wait()
    except KeyboardInterrupt:
        child.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
    # A launcher gives its children's signals as a shell does.
    return Ended(as_subprocess(status), is_terminated)
