"""How a failure is told: a clear message and an exit status, a traceback only for `--debug`."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llmkd.errors import LlmkdError
from llmkd.rank_messages import tell

DEBUG = "LLMKD_DEBUG"
"""Environment variable that shows tracebacks, here and in child processes."""


@contextmanager
def reported(log: Path | None = None) -> Iterator[None]:
    """Turns exceptions into messages on stderr and an exit status: 2 bad input, 1 anything else.

    Args:
        log: Where the traceback of an unforeseen error goes; without it, stderr.
    """
    try:
        yield
    except LlmkdError as error:
        _show(error)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        tell("interrupted; the same command again goes on from what was saved")
        sys.exit(130)
    except BrokenPipeError as error:
        if log is not None:
            _show_unforeseen(error, log)
        else:
            # Who read has read enough, as `head` does: no message, and nothing left to flush.
            _discard_output()
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - the outermost place: whatever comes is reported.
        _show_unforeseen(error, log)
        sys.exit(1)


@contextmanager
def printing() -> Iterator[None]:
    """Tells of a stdout that takes nothing more; the block writes results to it.

    Raises:
        LlmkdError: It is a file on a full disk, say.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        raise LlmkdError(
            f"stdout: cannot be written ({error.strerror}); send it to another file"
        ) from error


def _discard_output() -> None:
    """What is left in the buffers goes nowhere, for the interpreter would try it again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
            continue
        with suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _show_unforeseen(error: Exception, log: Path | None) -> None:
    # Imported here: only a failure needs it, and `--help` is to be quick.
    from llmkd.faults import explanation

    message = explanation(error, None if log is None else log.parent)
    if os.environ.get(DEBUG) or (log is None and message is None):
        traceback.print_exception(error)
    elif message is None and log is not None:
        reason = (str(error).strip() or "no message").splitlines()[0]
        where = f"traceback in {log}" if _is_written(log) else "--debug shows the traceback"
        message = f"{type(error).__name__}: {reason} ({where})"
    if message is not None:
        tell(message)


def _is_written(log: Path) -> bool:
    """Whether there was room for the traceback."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(traceback.format_exc())
    except OSError:
        return False
    return True


def _show(error: LlmkdError) -> None:
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    else:
        tell(str(error))
