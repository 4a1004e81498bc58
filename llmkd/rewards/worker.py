"""A process that rewards are computed in, so that they can be stopped, whatever they do.

It is started once and kept between batches. What it prints goes to stderr. A batch that takes too
long ends with the process and all that it started; the next one begins another. It ends with this
process, on Linux also where that is killed.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

START_TIMEOUT_S = 300.0
"""For importing what the function needs."""
STDERR = 2
LATE = "took more than"
"""How the message of a call begins that was stopped."""


class NoAnswerError(Exception):
    """A call gave no rewards; the message goes on from the function's name: `raised ...`."""


@dataclass(frozen=True)
class Answer:
    """What a call gave."""

    values: list[float | str | None]
    """For each completion a reward, None, or what is wrong with what it gave."""
    logged: list[tuple[str, str, Any]]
    """Calls of `log_extra` and `log_metric`: which one, the name, and what is logged."""


class Worker:
    """A function in a process of its own.

    Args:
        function: `FILE.py:NAME` or `MODULE:NAME`.
        arguments: What it is called with besides each batch.
        timeout_s: Seconds that a call may take.
    """

    def __init__(self, function: str, arguments: Mapping[str, Any], timeout_s: float):
        self.function, self.arguments, self.timeout_s = function, dict(arguments), timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether the function is loaded, and nothing has ended its process since."""
        return self._process is not None and self._process.poll() is None

    def ask(self, batch: Mapping[str, Any]) -> Answer:
        """Calls the function, which is loaded.

        Args:
            batch: Its other arguments, by name; and `num_completions`, how many rewards there are to be.

        Raises:
            NoAnswerError: It raised, took too long, returned no list of the right length, or took the
                process down.
        """
        return self._exchange(batch, self.timeout_s, f"{LATE} {self.timeout_s:g} s")

    def start(self) -> None:
        """Starts a process, the first one or another, and loads the function.

        Raises:
            NoAnswerError: It cannot be loaded.
        """
        self.end()
        self._connection, theirs = Pipe()
        module, given = "llmkd.rewards.worker_process", [str(os.getpid()), str(theirs.fileno())]
        # In a session of its own: ctrl-C is for this process, which then ends it.
        # The user's modules may lie in the current folder.
        environment = {
            name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *given],
            env=environment,
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=STDERR,
            start_new_session=True,
        )
        theirs.close()
        self._finalizer = weakref.finalize(self, _end, self._process, os.getpid())
        loading = {"function": self.function, "arguments": self.arguments}
        late = f"could not be loaded within {START_TIMEOUT_S:g} s"
        self._exchange(loading, START_TIMEOUT_S, late)

    def end(self) -> None:
        """Kills the process and all that it started; the next call starts another."""
        if self._process is not None:
            self._finalizer()
            self._connection.close()
            self._process = None

    def _exchange(self, request: Mapping[str, Any], timeout_s: float, late: str) -> Answer:
        process, connection = self._process, self._connection
        assert process is not None
        timer = threading.Timer(timeout_s, _kill, [process, is_late := threading.Event()])
        timer.daemon = True
        timer.start()
        try:
            reply = _sent(connection, request)
        except (OSError, EOFError):
            timer.cancel()
            timer.join()
            self.end()
            raise NoAnswerError(late if is_late.is_set() else _ended(process)) from None
        except BaseException:
            # Whatever comes in between, such as ctrl-C: the answer would be the next call's.
            self.end()
            raise
        finally:
            timer.cancel()
            timer.join()
        if "failed" in reply:
            raise NoAnswerError(reply["failed"])
        return Answer(**reply)


def _sent(connection: Connection, request: Mapping[str, Any]) -> dict[str, Any]:
    # Not `send`, which would share tensors. What comes back is read as JSON, and runs nothing here.
    connection.send_bytes(pickle.dumps(request))
    return json.loads(connection.recv_bytes())


def _kill(process: subprocess.Popen[bytes], is_late: threading.Event | None = None) -> None:
    if is_late is not None:
        is_late.set()
    if process.returncode is None:
        # Where it is gone, so is its group, or it is not ours any more.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() == owner:  # And not a fork, such as one that loads data.
        _kill(process)
        process.wait()


def _ended(process: subprocess.Popen[bytes]) -> str:
    status = process.returncode
    how = f"exit status {status}" if status >= 0 else f"signal {-status}"
    return f"took its process down ({how})"
