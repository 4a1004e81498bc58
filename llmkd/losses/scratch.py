"""Memory that every block of positions uses anew.

On a CPU the C library gives large pieces back to the system when they are freed, and to fault them in
again takes longer than the arithmetic that fills them.
"""

import mmap
import threading
from contextlib import suppress

import torch
from torch import Tensor

from llmkd.losses.signals import wide


class Scratch:
    """Tensors, handed out one after the other until `restart` takes all of them back."""

    def __init__(self):
        self.kept: list[Tensor] = []
        self.num_given = 0

    def restart(self) -> None:
        """From here on, what was handed out is overwritten."""
        self.num_given = 0

    def like(self, example: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor of the same shape, with anything in it.

        Args:
            example: Of the shape.
            dtype: None takes the example's.
        """
        dtype = dtype or example.dtype
        if example.device.type != "cpu":
            return torch.empty_like(example, dtype=dtype)  # Its allocator keeps what is freed.
        num_bytes = example.numel() * dtype.itemsize
        if self.num_given == len(self.kept):
            self.kept.append(torch.empty(0, dtype=torch.uint8))
        if len(self.kept[self.num_given]) < num_bytes:
            self.kept[self.num_given] = _new_bytes(num_bytes)
        self.num_given += 1
        return self.kept[self.num_given - 1][:num_bytes].view(dtype).view(example.shape)

    def widened(self, x: Tensor) -> Tensor:
        """The tensor itself, or in float32 where its type has fewer bits."""
        dtype = wide(x.dtype)
        return x if x.dtype == dtype else self.like(x, dtype).copy_(x)


def _new_bytes(num_bytes: int) -> Tensor:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(num_bytes, dtype=torch.uint8)
    # In large pages: a pass over more than the caches hold looks up every small one.
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # A kernel without them.
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)


class _OfThread(threading.local):
    def __init__(self):
        self.blocks = Scratch()
        self.chunks = Scratch()


_of_thread = _OfThread()


def block_scratch() -> Scratch:
    """This thread's, for what is made of a block; begun anew."""
    _of_thread.blocks.restart()
    return _of_thread.blocks


def chunk_scratch() -> Scratch:
    """This thread's, for both models' products of a chunk; begun anew."""
    _of_thread.chunks.restart()
    return _of_thread.chunks
