"""A LoRA adapter, added to its model's weights one tensor at a time."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llmkd.errors import InputError
from llmkd.models.adapter_configs import CONFIG, Config, no_lora, unusual

WEIGHTS = "adapter_model.safetensors"
A, B = ".lora_A.weight", ".lora_B.weight"
BEGIN = "base_model.model."


class Adapter:
    """What a LoRA adapter adds: `scale * B A` to each weight that it adapts.

    The scale is alpha / r, or alpha / sqrt(r) with `use_rslora`.

    Args:
        place: How errors begin: the key and the adapter's name.
        folder: What peft's `save_pretrained` made.

    Raises:
        InputError: It is no plain LoRA adapter, or its files are missing or broken.

    References:
        Hu et al. 2021, "LoRA", https://arxiv.org/abs/2106.09685, equation 3.
    """

    def __init__(self, place: str, folder: Path):
        self.place, self.file = place, folder / WEIGHTS
        config = _config(place, folder / CONFIG)
        self.base: str = config["base_model_name_or_path"]
        rank = config["r"]
        divisor = math.sqrt(rank) if config.get("use_rslora") else rank
        self.scale = config["lora_alpha"] / divisor
        self.is_fan_in_fan_out = bool(config.get("fan_in_fan_out"))
        self.shapes = self._shapes()

    def added(self, name: str, weight: Tensor) -> Tensor:
        """A weight of the model with the adapter's update in it, where it has one."""
        key = f"{BEGIN}{name.removesuffix('.weight')}"
        if key + A not in self.shapes:
            return weight
        with safe_open(self.file, framework="pt") as file:
            a, b = (file.get_tensor(key + end).to(weight.dtype) for end in (A, B))
        left, right = (a.T, b.T) if self._is_transposed(a.shape) else (b.flatten(1), a.flatten(1))
        # Of a convolution, B's kernel is one wide: each place of A's is multiplied by the same matrix.
        return torch.addmm(weight.flatten(1), left, right, alpha=self.scale).view_as(weight)

    def check_fits(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuses an adapter of another model.

        Args:
            shapes: The model's tensors.

        Raises:
            InputError: A weight that it adapts is not there, or has another shape.
        """
        for key, (rank, *inputs) in self.shapes.items():
            if not key.endswith(A):
                continue
            outputs, inner = self.shapes[key.removesuffix(A) + B][:2]
            weight = key.removeprefix(BEGIN).removesuffix(A) + ".weight"
            if inner != rank:
                raise InputError(
                    f"{self.place}: adapts {weight} in groups, as peft does with grouped convolutions, "
                    "and cannot be added to it; train an adapter that leaves them out"
                )
            is_transposed = self._is_transposed(self.shapes[key])
            sides = (*inputs, outputs) if is_transposed else (outputs, *inputs)
            if shapes.get(weight) != sides:
                raise InputError(
                    f"{self.place}: is of another model: it adapts {weight} of shape {list(sides)}, "
                    f"and {self.base} has {_shown(shapes.get(weight))}; write the model that it was "
                    f"trained on as base_model_name_or_path in its {CONFIG}"
                )

    def _is_transposed(self, shape: Sequence[int]) -> bool:
        """Whether a weight has its inputs first, as those of GPT-2's layers do; convolutions never."""
        return self.is_fan_in_fan_out and len(shape) == 2

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        try:
            with safe_open(self.file, framework="pt") as file:
                names = list(file.keys())
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{self.place}: no whole {WEIGHTS} ({error}); save the adapter anew with peft"
            ) from error
        for name in shapes:
            end = next((end for end in (A, B) if name.endswith(end)), None)
            other = end and name.removesuffix(end) + (B if end == A else A)
            if other not in shapes:
                raise InputError(
                    f"{self.place}: {name} is no part of a plain LoRA update; merge the adapter with "
                    "peft's merge_and_unload, and name the folder that it is saved to"
                )
        return shapes


def _config(place: str, path: Path) -> Config:
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{place}: {path.name}: {error}; copy the adapter anew") from error
    if not isinstance(config, dict):
        raise InputError(f"{place}: {path.name} has no fields; copy the adapter anew")
    if problem := no_lora(config):
        raise InputError(f"{place} {problem}")
    if config["r"] < 1 or not isinstance(config.get("lora_alpha"), int | float):
        raise InputError(
            f"{place}: {path.name} has r: {config['r']} and lora_alpha: {config.get('lora_alpha')}, "
            "which give no scale; write what it was trained with"
        )
    base = config.get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise InputError(
            f"{place}: {path.name} does not say which model it adapts; write base_model_name_or_path"
        )
    if odd := unusual(config):
        named = ", ".join(f"{name}: {config[name]}" for name in odd)
        raise InputError(
            f"{place}: is more than a plain LoRA update ({named}); merge it with peft's "
            "merge_and_unload, and name the folder that it is saved to"
        )
    return config


def _shown(shape: tuple[int, ...] | None) -> str:
    return "no such weight" if shape is None else f"shape {list(shape)}"
