"""Engines that keep weights in parts on several processes: DeepSpeed's ZeRO and FSDP2."""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.integrations import deepspeed

from llmkd.launch import DEEPSPEED_BUCKET

LOADS_ON_ONE_RANK = "FSDP_CPU_RAM_EFFICIENT_LOADING"
RUNS_ANYWHERE = (None, "eager", "sdpa")
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


def send_in_pieces(trainer: Trainer) -> None:
    """Gives DeepSpeed's bucket a size, where its user's settings have none."""
    plugin: Any = trainer.accelerator.state.deepspeed_plugin
    if plugin is not None and plugin.zero_stage > 0:
        config = plugin.deepspeed_config["zero_optimization"]
        config.setdefault("reduce_bucket_size", DEEPSPEED_BUCKET)


def place(student: PreTrainedModel, arguments: TrainingArguments) -> None:
    """Moves a student to its device, unless an engine is to bring it there in parts.

    Attention that may run on accelerators only, such as flash attention, is tried before the training: with it
    the student is there whole until then.
    """
    if not is_split(arguments) or student.config._attn_implementation not in RUNS_ANYWHERE:
        student.to(arguments.device)  # pyright: ignore[reportArgumentType]


def take_apart(trainer: Trainer) -> None:
    """Brings the student to the devices parameter by parameter, each process its part, for ZeRO-3.

    DeepSpeed's engine would move it there whole first. FSDP2 takes it layer by layer by itself.

    References:
        https://deepspeed.readthedocs.io/en/stable/zero3.html, "Constructing Massive Models".
    """
    plugin: Any = trainer.accelerator.state.deepspeed_plugin
    if plugin is None or plugin.zero_stage != 3:
        return
    from deepspeed import zero  # An extra.

    student: Any = trainer.model
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(trainer.accelerator.mixed_precision)
    for parameter in student.parameters():
        # The engine's own types, which it only looks at when they are in parts.
        parameter.data = parameter.data.to(half or parameter.dtype)
    # What depends on the batch is filled in later, and of no use here.
    config = copy.deepcopy(plugin.deepspeed_config) | {"train_micro_batch_size_per_gpu": 1}
    config.pop("train_batch_size", None)
    zero.Init(module=student, config_dict_or_path=config)
    student.to(trainer.accelerator.device)  # Buffers: there is nothing else left to move.


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


def keep_precision(trainer: Trainer) -> None:
    """Makes FSDP2 compute in half precision as DDP does: gradients are added up in float32.

    Accelerate's own policy also rounds what the model returns, which here is the loss.
    """
    plugin: Any = trainer.accelerator.state.fsdp_plugin
    policy = getattr(plugin, "mixed_precision_policy", None)
    if isinstance(policy, MixedPrecisionPolicy):
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=policy.param_dtype, reduce_dtype=torch.float32
        )


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
