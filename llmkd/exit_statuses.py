"""Exit statuses: the command line's own, and of processes that a signal ended. Imports no torch."""

import signal

FAILED, BAD_INPUT = 1, 2
_SIGNALLED = 128


def of_signal(number: int) -> int:
    """The status of a process that a signal ended, as a shell gives it."""
    return _SIGNALLED + number


TERMINATED = of_signal(signal.SIGTERM)


def as_shell(status: int) -> int:
    """The status as a shell gives it, of one from `subprocess`: there -9 is what signal 9 ended."""
    return status if status >= 0 else of_signal(-status)


def as_subprocess(status: int) -> int:
    """The status as `subprocess` gives it, of one that may be a shell's."""
    return status if status <= _SIGNALLED else _SIGNALLED - status
