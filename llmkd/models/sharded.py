"""A frozen model in parts, one on each process; every layer is whole while it runs."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from transformers import PreTrainedModel

from llmkd.models.head import output_head
from llmkd.models.signals import is_classifier


def shard(model: PreTrainedModel, device: torch.device, *, is_offloaded: bool) -> None:
    """Takes a frozen model apart in place: by layers, over all processes, by FSDP2.

    The output head, with the embedding where both are one, stays whole on the device: a loss reads it
    all. With one process alone nothing is done.

    Args:
        model: Whole, in the memory of every process, with equal weights.
        device: Where it is to run.
        is_offloaded: Whether its parts wait in host memory until their layer runs.

    References:
        Zhao et al. 2023, "PyTorch FSDP", https://arxiv.org/abs/2304.11277.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    model.requires_grad_(False)
    whole = set() if is_classifier(model) else set(output_head(model).parameters())
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    moves = is_offloaded and device.type != "cpu"
    settings: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (dist.get_world_size(),)),
        # On a CPU they wait where they run.
        "offload_policy": CPUOffloadPolicy() if moves else OffloadPolicy(),
        "ignored_params": whole,
        # Else what is outside the layers, an embedding say, would stay whole after its first use.
        "reshard_after_forward": True,
    }
    for layer in _layers(model):
        fully_shard(layer, **settings)
    fully_shard(model, **settings)


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` took it apart."""
    return isinstance(model, FSDPModule)


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    """The layers that are repeated, encoder's and decoder's: the outermost lists of modules."""
    found: list[nn.Module] = []

    def look_into(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, nn.ModuleList):
                found.extend(child)
            else:
                look_into(child)

    look_into(model)
    return found
