"""Layers left out of a model for a while, without cutting anything."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from llmkd.pruning.architectures import architecture_of


@contextmanager
def bypassed(model: PreTrainedModel, layers: Collection[int]) -> Iterator[None]:
    """Has decoder layers give back what they are given, until the block ends.

    The model computes what it would without them, at their cost less: they do not run. Not for
    generation, whose cache would have nothing of them.

    Args:
        model: Of a known architecture.
        layers: From 0.
    """
    found: Any = model.get_submodule(architecture_of(model.config.to_dict()).layers)
    chosen = [found[index] for index in layers]
    for layer in chosen:
        layer.forward = _given
    try:
        yield
    finally:
        for layer in chosen:
            del layer.forward  # Its class's own is there again.


def _given(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states
