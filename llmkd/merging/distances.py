"""How far the merged models are apart: cosines of their tensors, layer by layer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_LAYER = re.compile(r"\.(\d+)\.")


@dataclass
class Cosines:
    """Of the first model's tensors and each other model's; a tensor of zeros has none."""

    keys: Sequence[str]
    """Of the other models, as the recipe names them."""
    layers: dict[int | None, list[dict[str, float]]] = field(default_factory=dict)
    """Layer to each other model's cosines, by tensor; None for what is in no layer."""

    def add(self, tensor: str, cosines: Sequence[float | None]) -> None:
        """Takes in the cosines of one tensor, one for each other model."""
        found = _LAYER.search(tensor)
        layer = int(found[1]) if found else None
        models = self.layers.setdefault(layer, [{} for _ in self.keys])
        for model, cosine in zip(models, cosines, strict=True):
            if cosine is not None:
                model[tensor] = cosine

    def summary(self) -> list[dict[str, Any]]:
        """For each layer and other model: the mean cosine, and the tensor with the lowest one."""
        order = sorted(self.layers, key=lambda layer: (layer is None, layer or 0))
        return [
            {"layer": layer, "model": key, **_summed_up(cosines)}
            for layer in order
            for key, cosines in zip(self.keys, self.layers[layer], strict=True)
            if cosines
        ]


def _summed_up(cosines: dict[str, float]) -> dict[str, Any]:
    lowest = min(cosines, key=lambda name: cosines[name])
    mean = sum(cosines.values()) / len(cosines)
    return {"mean": mean, "lowest": cosines[lowest], "lowest_tensor": lowest}
