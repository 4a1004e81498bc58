"""Processes that end with those that started them. Imports no torch."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


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
