"""Engines that keep weights in parts on several processes: DeepSpeed's ZeRO and FSDP2."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments
from transformers.integrations import deepspeed

from llmkd.errors import InputError

LOADS_ON_ONE_RANK = "FSDP_CPU_RAM_EFFICIENT_LOADING"
ASKS_FOR_FSDP = "ACCELERATE_USE_FSDP"


def is_fsdp_asked_for() -> bool:
    """Whether accelerate's launcher was told to shard by FSDP."""
    return os.environ.get(ASKS_FOR_FSDP, "false").lower() == "true"


@contextmanager
def loaded_whole() -> Iterator[None]:
    """Models that are loaded inside the block are whole in every process, whatever the engine.

    So they can be looked at, resized and given adapters. An engine takes the student apart when
    training begins; a frozen teacher is none of its business.
    """
    # With it, the other ranks would load empty weights, a teacher's among them.
    os.environ[LOADS_ON_ONE_RANK] = "false"
    reference = deepspeed._hf_deepspeed_config_weak_ref
    config = reference() if reference is not None else None
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if config is not None:
            deepspeed.set_hf_deepspeed_config(config)


def is_split(arguments: TrainingArguments) -> bool:
    """Whether no process will hold all weights of the student while it trains."""
    plugin: Any = getattr(arguments, "deepspeed_plugin", None)
    return is_fsdp_asked_for() or (plugin is not None and plugin.zero_stage == 3)


def shard_on_a_cpu(trainer: Trainer) -> None:
    """Makes accelerate's FSDP2 do on a CPU what it does on accelerators.

    Left to itself it trains by DDP there, and says nothing.
    """
    state: Any = trainer.accelerator.state
    if is_fsdp_asked_for() and state.distributed_type == DistributedType.MULTI_CPU:
        plugin = FullyShardedDataParallelPlugin()
        if state.mixed_precision != "no":
            plugin.set_mixed_precision(state.mixed_precision)
        state.fsdp_plugin = plugin
        # In both, as accelerate does: every new view of the one is brought up to date by the other.
        state.distributed_type = DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        trainer.is_fsdp_enabled = True


def share_embeddings(model: nn.Module) -> None:
    """Makes modules that share the input embedding's weights the embedding itself.

    Encoder and decoder have modules of their own for it. FSDP2 wants all that share a weight in one
    group, and accelerate puts embedding and head there, but no others.
    """
    embedding = model.get_input_embeddings()  # pyright: ignore[reportCallIssue]
    for name, module in list(model.named_modules(remove_duplicate=False)):
        is_alike = type(module) is type(embedding) and module is not embedding
        if is_alike and module.weight is embedding.weight:
            model.set_submodule(name, embedding)


def whole_weights(trainer: Trainer) -> dict[str, Tensor]:
    """The weights of a student that FSDP2 keeps in parts, each once; every process has to call it."""
    model: Any = trainer.model
    state: Any = trainer.accelerator.get_state_dict(model)
    # Named once, though several modules share it.
    own = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    return {name: weight for name, weight in state.items() if name in own}


def check_engine(trainer: Trainer) -> None:
    """Refuses settings of an engine with which a student could not be trained, or not be saved.

    Raises:
        InputError: With what to write instead.
    """
    state: Any = trainer.accelerator.state
    plugin = state.deepspeed_plugin
    if plugin is not None and plugin.zero_stage == 3:
        kept = plugin.deepspeed_config["zero_optimization"]
        if not kept.get("stage3_gather_16bit_weights_on_model_save"):
            raise InputError(
                "DeepSpeed: the student could not be saved whole; write zero3_save_16bit_model: true "
                "in the launcher's file (stage3_gather_16bit_weights_on_model_save in DeepSpeed's)"
            )
    if trainer.is_fsdp_enabled and state.fsdp_plugin.fsdp_version != 2:
        raise InputError(
            "FSDP: version 1 keeps weights flattened, which the chunked head cannot read; write "
            "fsdp_version: 2 in the launcher's file"
        )
