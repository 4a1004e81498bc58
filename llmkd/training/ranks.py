"""What the processes of one training do alike."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from llmkd.errors import LlmkdError

Found = TypeVar("Found")


def from_main(accelerator: Accelerator, find: Callable[[], Found]) -> Found:
    """What the main process finds, on every rank; every rank has to call it.

    Raises:
        LlmkdError: What `find` raised.
        SystemExit: The same on the other ranks, where the message has been told by the main one.
    """
    found: list[Any] = [None, 0]
    error: LlmkdError | None = None
    if accelerator.is_main_process:
        try:
            found[0] = find()
        except LlmkdError as raised:
            error, found[1] = raised, raised.exit_status
    broadcast_object_list(found)
    if error is not None:
        raise error
    if found[1]:
        raise SystemExit(found[1])
    return found[0]


def raise_once(accelerator: Accelerator, error: LlmkdError) -> NoReturn:
    """Ends every rank with an error that all of them have, and one of them tells."""
    if accelerator.is_main_process:
        raise error
    raise SystemExit(error.exit_status)


def any_rank(accelerator: Accelerator, flags: Sequence[Tensor]) -> list[bool]:
    """Of each flag, a scalar, whether it is set on some rank; every rank has to call it."""
    sums = accelerator.reduce(torch.stack([flag.float() for flag in flags]), reduction="sum")
    assert isinstance(sums, Tensor)
    return [count > 0 for count in sums.tolist()]
