"""Processes that end with those that started them. Imports no torch."""

import ctypes
import os
import signal
import sys

LAUNCHER = "LLMKD_LAUNCHER"
"""Environment variable with the process id of llmkd's launcher, for those that it starts."""
_PR_SET_PDEATHSIG = 1


def die_with_launcher() -> None:
    """Has this process killed when llmkd's launcher ends, if that is what started it."""
    # Taken out, for what this process starts in its turn has another parent.
    if launcher := os.environ.pop(LAUNCHER, None):
        die_with(int(launcher))


def die_with(parent: int) -> None:
    """Has this process killed when its parent ends, however that ends: on Linux.

    Args:
        parent: Its process id; if that is gone already, this process ends now.
    """
    # Killed with -9, the parent can take nobody along; on Linux the kernel does it.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)
