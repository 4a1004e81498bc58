"""Becomes a program with limits: `python limited.py BYTES PROGRAM ARGUMENTS`.

Started for every row, so it imports little, and nothing of llmkd.
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Sets the limits, which the program inherits, and becomes the program."""
    if sys.platform == "linux":  # Elsewhere a program outlives an llmkd that was killed.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    num_bytes = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
