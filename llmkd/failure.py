"""How a failure is told: a clear message and an exit status, a traceback only for `--debug`."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmkd.errors import InputError, LlmkdError

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
        sys.exit(2 if isinstance(error, InputError) else getattr(error, "exit_status", 1))
    except KeyboardInterrupt:
        print("interrupted; the same command again goes on from what was saved", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - the outermost place: whatever comes is reported.
        if log is None or os.environ.get(DEBUG):
            traceback.print_exc()
        else:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(traceback.format_exc())
            reason = (str(error).strip() or "no message").splitlines()[0]
            print(f"{type(error).__name__}: {reason} (traceback in {log})", file=sys.stderr)  # noqa: T201
        sys.exit(1)


def _show(error: LlmkdError) -> None:
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    else:
        print(error, file=sys.stderr)  # noqa: T201
