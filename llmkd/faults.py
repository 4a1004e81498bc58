"""What a machine ran out of, disk, memory or processes, told with what to do. Imports no torch.

Libraries tell it in many ways: an `OSError` with its number, the number within a text (Rust), or a
text alone (PyTorch's archive writer, its allocators).
"""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmkd.advice import goes_on, less_memory
from llmkd.errors import LlmkdError
from llmkd.recipe.schema import Stage

DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the limit on the size of files is reached (ulimit -f)",
}
CUT_SHORT = ("PytorchStreamWriter failed", "unexpected pos", "iostream error", " requested and ")
"""Writers of PyTorch and numpy keep no error number, and hardly fail for another reason."""
MEMORY = (
    "out of memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "not enough memory",
    "ALLOC_FAILED",
    "bad_alloc",
    "No executable batch size found",
)
FULL_BELOW = 2**16
"""Bytes below which a file system counts as full when an error does not say why."""

PEERS = ("gloo", "DistBackendError", "DistNetworkError", "DistStoreError")
"""What the errors of a rank name, in text or type, that waits for another one in vain."""

_NUMBER = re.compile(r"\(os error (\d+)\)")


class ExplainedError(LlmkdError):
    """What `explained` has told already."""


@contextmanager
def explained(folder: Path, stage: Stage | None = None) -> Iterator[None]:
    """Turns running out of disk or memory into one message with what to do; others pass.

    Args:
        folder: Where the block writes.
        stage: What the block does; None for work between stages.

    Raises:
        ExplainedError: The disk is full, or memory ran out, or another process of a training is gone.
        SystemExit: Another process is gone, which the first one of this machine tells.
    """
    try:
        yield
    except ExplainedError:
        raise
    except Exception as error:
        message = explanation(error, folder, stage)
        if message is None:
            raise
        # On each of several machines somebody has to.
        if lost_a_peer(error) and os.environ.get("LOCAL_RANK", "0") != "0":
            raise SystemExit(ExplainedError.exit_status) from error
        raise ExplainedError(message) from error


def explanation(error: Exception, folder: Path | None, stage: Stage | None = None) -> str | None:
    """What to say of an error if disk or memory ran out, or another process did, else None.

    Args:
        error: Looked at together with what led to it.
        folder: Where the run was written; None for work that writes no run, where nothing was saved.
        stage: What was done; None for work that is no stage's.
    """
    if lost_a_peer(error):
        return _peer_message(error, folder, stage)
    return _disk_message(error, folder, stage) or _memory_message(error, stage)


def lost_a_peer(error: Exception) -> bool:
    """Whether a rank waited in vain for another one."""
    named = f"{type(error).__name__} {error}"
    return isinstance(error, RuntimeError) and any(peer in named for peer in PEERS)


def _peer_message(error: Exception, folder: Path | None, stage: Stage | None) -> str:
    next_step = goes_on(stage, folder) if stage and folder else "goes on from what was saved"
    reason = _first_line(error).split(". ")[0]
    return (
        f"another process of this training ended, or gives no answer ({reason}); if it "
        "said nothing itself, the system may have killed it, as it does when memory runs out (see "
        f"`dmesg`); the same command {next_step}"
    )


def _disk_message(error: Exception, folder: Path | None, stage: Stage | None) -> str | None:
    found = [(link, reason) for link in _chain(error) if (reason := _disk_reason(link))]
    is_vague = not found and isinstance(error, OSError | RuntimeError) and not _is_memory(error)
    if is_vague and folder is not None and _is_full(folder):
        found = [(error, DISK[errno.ENOSPC])]
    if not found:
        return None
    link, reason = found[0]
    if folder is None:
        place = _place(link, Path.cwd())
        return f"{place}: {reason} ({_first_line(link)}); make room there, and run it again"
    next_step = goes_on(stage, folder) if stage else "goes on from what was saved"
    return (
        f"{_place(link, folder)}: {reason} ({_first_line(link)}); what was saved before is kept; "
        f"make room there, and the same command {next_step}"
    )


def _memory_message(error: Exception, stage: Stage | None) -> str | None:
    found = next((link for link in _chain(error) if _is_memory(link)), None)
    if found is None:
        return None
    more = "write a smaller batch size, or run it on a machine with more"
    advice = less_memory(stage) if stage else more
    return f"out of memory ({_first_line(found)}); {advice}"


def _disk_reason(error: BaseException) -> str | None:
    if isinstance(error, LlmkdError):
        # It may quote the user's data; what led to it is looked at by itself.
        return None
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if match := _NUMBER.search(text):
        number = int(match[1])
    if number in DISK:
        return DISK[number]
    by_text = (DISK[known] for known in DISK if os.strerror(known) in text)
    is_cut_short = any(part in text for part in CUT_SHORT)
    return next(by_text, DISK[errno.ENOSPC] if is_cut_short else None)


def ran_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, a machine's or an accelerator's."""
    return any(map(_is_memory, _chain(error)))


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    return "OutOfMemoryError" in names or (
        isinstance(error, RuntimeError) and any(part in text for part in MEMORY)
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, as a traceback would show them."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _place(error: BaseException, folder: Path) -> Path:
    """Where there is no room: as the error says, or else the first full place written to."""
    if isinstance(error, OSError) and error.filename:
        return Path(os.fsdecode(error.filename)).parent
    places = (folder, Path(tempfile.gettempdir()), Path("/dev/shm"))
    return next((place for place in places if _is_full(place)), folder)


def _is_full(folder: Path) -> bool:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return False
    return usage.total > 0 and usage.free < FULL_BELOW


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
