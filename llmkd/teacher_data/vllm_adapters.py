"""A teacher's LoRA adapter, as vLLM takes it."""

from importlib import import_module
from typing import Any

from llmkd.errors import InputError
from llmkd.models.adapted import KEY, adapter_config, check_fits
from llmkd.models.adapter_configs import RANKS_OF_VLLM, beyond_vllm
from llmkd.models.load import config_of
from llmkd.recipe.models import PretrainedModel


def adapter_settings(teacher: PretrainedModel) -> dict[str, Any]:
    """What `vllm.LLM` is to be told; nothing where there is no adapter.

    Raises:
        InputError: Nothing loadable is there, or an adapter that vLLM would apply otherwise than peft.
    """
    name = teacher.adapter_name_or_path
    if name is None:
        return {}
    config = adapter_config(name)
    if problem := beyond_vllm(config):
        raise InputError(f"{KEY}: {name} {problem}")
    # vLLM passes over what it has no layer for.
    check_fits(config_of(teacher), name)
    settings: dict[str, Any] = {
        "enable_lora": True,
        "max_lora_rank": next(rank for rank in RANKS_OF_VLLM if rank >= config["r"]),
    }
    if not isinstance(config["target_modules"], str):
        # Without them, vLLM 0.30 wraps the head too, and on a CPU crashes when asked for the
        # log-probabilities of prompts. It fuses layers, so it does not know them by full names.
        names = {name.rpartition(".")[2] for name in config["target_modules"]}
        settings["lora_target_modules"] = sorted(names)
    return settings


def adapter_request(teacher: PretrainedModel) -> Any:
    """What each request for a completion names its adapter by; None where there is none."""
    name = teacher.adapter_name_or_path
    if name is None:
        return None
    return import_module("vllm.lora.request").LoRARequest("teacher", 1, name)
