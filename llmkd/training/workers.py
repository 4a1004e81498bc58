"""Workers of a DataLoader outlive a SIGTERM that every process of a job gets."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader


def ended_by_parent_only(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Has a loader's workers end on SIGTERM only where it comes from the training: on Linux.

    Schedulers send it to all processes, and a training whose workers die of it has no rows left for the
    step that it would save after.

    Args:
        loader: As accelerate gives it; changed in place.
    """
    # accelerate's wraps the one that starts them.
    base: Any = getattr(loader, "base_dataloader", loader)
    if sys.platform == "linux":
        base.worker_init_fn = _Start(base.worker_init_fn)
    return loader


class _Start:
    """What a worker does first; a class, for it may be pickled."""

    def __init__(self, further: Callable[[int], None] | None):
        self.further = further

    def __call__(self, worker_id: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_parent_says, daemon=True).start()
        if self.further is not None:
            self.further(worker_id)


def _end_when_parent_says() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
