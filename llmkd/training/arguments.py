"""The recipe's `trainer:` block as `transformers.TrainingArguments`, with llmkd's defaults."""

import os
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import TrainingArguments

from llmkd.errors import InputError
from llmkd.recipe.training_arguments import DEFAULTS

BY_LAUNCHER = ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "ACCELERATE_DEEPSPEED_CONFIG_FILE")
"""What accelerate's launcher sets for DeepSpeed, and nobody else does."""

Arguments = TypeVar("Arguments", bound=TrainingArguments)


def training_arguments(
    trainer: dict[str, Any], checkpoints: Path, *, seed: int
) -> TrainingArguments:
    """What `DistillTrainer` takes.

    Args:
        trainer: The recipe's block, whose names were checked when the recipe was loaded.
        checkpoints: Where checkpoints go.
        seed: The run's.

    Raises:
        InputError: transformers refuses the values.
    """
    own = {"label_names": ["target_ids"]}
    return build_arguments(TrainingArguments, DEFAULTS | trainer, checkpoints, seed=seed, own=own)


def build_arguments(
    kind: type[Arguments],
    values: dict[str, Any],
    checkpoints: Path,
    *,
    seed: int,
    own: dict[str, Any],
) -> Arguments:
    """Arguments of one kind, with what llmkd sets for every trainer.

    Args:
        kind: The class.
        values: The recipe's block over llmkd's defaults.
        checkpoints: Where checkpoints go.
        seed: The run's.
        own: What else llmkd sets, for this kind.

    Raises:
        InputError: Its own library refuses the values.
    """
    if values.get("deepspeed") and any(name in os.environ for name in BY_LAUNCHER):
        raise InputError(
            "trainer.deepspeed: the launcher brings DeepSpeed's settings already; leave it out, or take "
            "--launch ddp beside it"
        )
    owned = {
        "output_dir": str(checkpoints),
        "seed": seed,
        "data_seed": seed,
        "use_cpu": not torch.accelerator.is_available() or values.get("use_cpu", False),
        "remove_unused_columns": False,
        "disable_tqdm": True,
        # Trackers are built by llmkd.training.trackers, which the training survives.
        "report_to": "none",
        # Each rank reads a stream by itself: batches of different lengths cannot be sent around.
        "accelerator_config": {
            **(values.get("accelerator_config") or {}),
            "dispatch_batches": False,
            # Those that fill up the last batch are told apart; see llmkd.training.last_batch.
            "even_batches": True,
            "split_batches": False,
        },
        "do_train": True,
    }
    try:
        arguments = kind(**{**values, **owned, **own})
    except (ValueError, TypeError, ImportError) as error:
        raise InputError(f"trainer: {error}") from error
    if arguments.auto_find_batch_size and arguments.world_size > 1:
        raise InputError(
            "trainer.auto_find_batch_size: one process that runs out of memory would try again, and "
            "the others wait for it for ever; write per_device_train_batch_size"
        )
    # One process drives one device: DataParallel's replicas would not share the chunked head.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def head_dtype(arguments: TrainingArguments) -> torch.dtype | None:
    """The type of the output heads' matrix products; None is the weights' own.

    With `fp16` too, which is float32 for weights that are trained: the head's gradient is computed
    before a loss scaler could lift it, and float16 has few digits for it.
    """
    return torch.bfloat16 if arguments.bf16 else None


def compute_dtype(arguments: TrainingArguments) -> torch.dtype | None:
    """The autocast type of `bf16` or `fp16`; None computes in the weights' own type."""
    if arguments.bf16:
        return torch.bfloat16
    return torch.float16 if arguments.fp16 else None
