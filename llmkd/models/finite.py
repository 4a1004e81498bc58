"""Weights that are numbers: a training that went wrong, or a broken file, leaves others."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

CHECKED = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

OVERFLOW = (
    "the model gives NaN, though its weights are finite: its hidden states are too large for the type "
    "of its weights; save it in float32 or bfloat16"
)
"""What to say of a model with whole weights whose answers are no numbers."""


def is_finite(tensor: Tensor) -> bool:
    """Whether no number of a tensor is NaN or infinite; of types without either, true."""
    if tensor.dtype not in CHECKED or tensor.numel() == 0:
        return True
    # Least and greatest are NaN where any number is; `torch.isfinite` would hold two copies at once.
    return all(math.isfinite(float(end)) for end in torch.aminmax(tensor))


def broken_weight(model: nn.Module) -> str | None:
    """The name of a model's first weight that holds NaN or an infinite number."""
    return _first_broken(model.named_parameters())


def broken_weight_in(folder: Path) -> str | None:
    """The same of the safetensors files in a folder, one tensor at a time."""
    return _first_broken(_tensors_in(folder))


def _first_broken(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    return next((name for name, tensor in tensors if not is_finite(tensor.detach())), None)


def _tensors_in(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping.
                yield name, file.get_tensor(name)
