"""Becomes a program with limits: `python limited.py PARENT BYTES PROGRAM ARGUMENTS`.

Started for every row, so it imports little, and nothing of llmkd.
"""

import ctypes
import os
import resource
import signal
import sys

UNSTARTED = 125
"""Exit status where the limits cannot be set, or the program cannot be started."""
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Sets the limits, which the program inherits, and becomes the program."""
    _die_with(int(sys.argv[1]))
    for number in (
        signal.SIGPIPE,
        signal.SIGXFSZ,
    ):  # Python ignores them, and so would the program.
        signal.signal(number, signal.SIG_DFL)
    try:
        num_bytes = int(sys.argv[2])
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))
        os.execvp(sys.argv[3], sys.argv[3:])
    except (OSError, ValueError, OverflowError, MemoryError):
        os._exit(UNSTARTED)


def _die_with(parent: int) -> None:
    if sys.platform == "linux":  # Elsewhere a program outlives an llmkd that was killed.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)


if __name__ == "__main__":
    main()
