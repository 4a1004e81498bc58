"""Memory that every block of positions uses anew.

On a CPU the C library gives large pieces back to the system when they are freed, and to fault them in
again takes longer than the arithmetic that fills them.
"""

import threading

import torch
from torch import Tensor


class Scratch:
    """Tensors of one shape, handed out one after the other until `restart` takes all of them back."""

    def __init__(self):
        self.kept: list[Tensor] = []
        self.num_given = 0

    def restart(self) -> None:
        """From here on, what was handed out is overwritten."""
        self.num_given = 0

    def like(self, example: Tensor) -> Tensor:
        """A tensor of the same shape and type, with anything in it."""
        if example.device.type != "cpu":
            return torch.empty_like(example)  # Its allocator keeps what is freed.
        if self.num_given == len(self.kept):
            self.kept.append(example.new_empty(0))
        kept = self.kept[self.num_given]
        if kept.dtype != example.dtype or kept.numel() < example.numel():
            kept = self.kept[self.num_given] = example.new_empty(example.numel())
        self.num_given += 1
        return kept[: example.numel()].view(example.shape)


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
