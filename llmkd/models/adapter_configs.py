"""What an adapter's `adapter_config.json` says of it. Imports no torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG = "adapter_config.json"
RANKS_OF_VLLM = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The largest rank that vLLM may be told to make room for."""
PLAIN: dict[str, Any] = {
    "bias": "none",
    "lora_bias": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "use_dora": False,
    "layer_replication": None,
    "target_parameters": None,
    "trainable_token_indices": None,
}
"""Fields of peft that vLLM refuses or, worse, passes over, with the value that changes nothing."""

CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq")
"""Beginnings of `init_lora_weights` by which peft takes the update's start out of the model itself."""

Config = Mapping[str, Any]


def no_lora(config: Config) -> str | None:
    """What is wrong with an adapter of another kind."""
    if config.get("peft_type") == "LORA" and isinstance(config.get("r"), int):
        return None
    return (
        f"is an adapter of type {config.get('peft_type')}; write one of type LORA, or a model that the "
        "adapter is merged into"
    )


def base_of(folder: Path) -> str | None:
    """The model that the adapter in a folder is for; None where there is no adapter."""
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        base = config["base_model_name_or_path"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return base if isinstance(base, str) else None


def largest_rank(config: Config) -> int:
    """The rank of its widest update."""
    return max(config["r"], *(config.get("rank_pattern") or {}).values(), 0)


def unusual(config: Config) -> list[str]:
    """The fields by which a LoRA adapter is more than one low-rank update of each weight."""
    odd = [name for name, plain in PLAIN.items() if config.get(name) and config[name] != plain]
    if str(config.get("init_lora_weights")).lower().startswith(CHANGE_THE_BASE):
        odd.append("init_lora_weights")
    return odd


def beyond_vllm(config: Config) -> str | None:
    """What of a LoRA adapter vLLM would not apply as peft does."""
    odd = unusual(config)
    if largest_rank(config) > RANKS_OF_VLLM[-1]:
        odd.append("r")
    if not odd:
        return None
    named = ", ".join(f"{name}: {config[name]}" for name in odd)
    return (
        f"is more than vLLM applies ({named}); write engine: {{kind: transformers}}, or a model that "
        "the adapter is merged into"
    )
