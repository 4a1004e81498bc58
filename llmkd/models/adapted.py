"""Adapters on top of a pretrained model, merged into its weights.

Merged, the model is a plain one: with an output head that the losses can read, wherever the adapter
is, and as fast as its base. In float32 that changes log-probabilities by rounding alone. In half
precision each weight is rounded once more, as in every merged checkpoint; vLLM keeps the two apart, so
that its log-probabilities differ by as much as half precision does.
"""

import pickle
from typing import Any

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel

from llmkd.errors import InputError
from llmkd.models.adapter_configs import Config, no_lora
from llmkd.models.kinds import auto_class
from llmkd.models.refusals import not_loadable

KEY = "adapter_name_or_path"


def adapter_config(name: str) -> Config:
    """The configuration of a LoRA adapter, from a folder or the hub.

    Raises:
        InputError: Nothing loadable is there, or another kind of adapter.
    """
    try:
        found = peft.PeftConfig.from_pretrained(name)
        config = found.to_dict() | {"peft_type": peft.PeftType(found.peft_type).value}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{KEY}: {name}: no adapter could be loaded ({error}); write a folder that "
            "peft's save_pretrained made, or a hub name that this machine can reach"
        ) from error
    if problem := no_lora(config):
        raise InputError(f"{KEY}: {name} {problem}")
    return config


def merged(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """The model with an adapter in its weights, which are changed in place.

    Args:
        model: As it was loaded.
        name: The adapter's folder or hub name.

    Raises:
        InputError: There is no such adapter, it is another model's, or it cannot be merged.
    """
    adapted = _adapted(model, name)
    _refuse_tied_head(name, model)
    try:
        # Raises where a weight is not finite.
        return adapted.merge_and_unload(safe_merge=True)  # pyright: ignore[reportCallIssue]
    except ValueError as error:
        raise _unfit(name, model, error) from error


def check_fits(config: PreTrainedConfig, name: str) -> None:
    """Refuses an adapter of another model, without loading the model's weights.

    Raises:
        InputError: There is no such adapter, or it is of another model.
    """
    with torch.device("meta"):
        model = auto_class(config).from_config(config)
    _adapted(model, name)


def _adapted(model: PreTrainedModel, name: str) -> peft.PeftModel:
    adapter_config(name)
    try:
        adapted = peft.PeftModel(model, peft.PeftConfig.from_pretrained(name))
        found: Any = adapted.load_adapter(
            name, "default", torch_device="cpu", low_cpu_mem_usage=True
        )
    except pickle.UnpicklingError as error:
        raise not_loadable("adapter", name, error) from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _unfit(name, model, error) from error
    _refuse_other_base(name, [*found.missing_keys, *found.unexpected_keys])
    return adapted


def _unfit(name: str, model: PreTrainedModel, error: Exception) -> InputError:
    # The first line of a size mismatch only says that there is one.
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
    return InputError(
        f"{KEY}: {name} cannot be put on {model.config.name_or_path} ({reason}); write an adapter of "
        "this very model"
    )


def _refuse_other_base(name: str, keys: list[str]) -> None:
    if keys:
        raise InputError(
            f"{KEY}: {name} is of another model: {len(keys)} of its weights have no counterpart, such "
            f"as {keys[0]}; write the model that it was trained on as model_name_or_path"
        )


def _refuse_tied_head(name: str, model: PreTrainedModel) -> None:
    ends = (model.get_output_embeddings(), model.get_input_embeddings())
    is_tied = model.config.get_text_config().tie_word_embeddings
    if is_tied and any(isinstance(layer, BaseTunerLayer) for layer in ends):
        raise InputError(
            f"{KEY}: {name} adapts one of head and embedding, which share their weights in this "
            "model, so it cannot be merged; write an adapter that leaves both alone"
        )
