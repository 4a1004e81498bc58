"""Which engine drives a training: it says so, is refused what it cannot do, and reads its own checkpoints.

Launchers can fall back in silence, and each engine's checkpoints have files of their own, some a file for
each process.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.training_args import OptimizerNames

from llmkd.advice import is_of_matrices
from llmkd.errors import InputError
from llmkd.launch_files import FSDP2_ONLY
from llmkd.progress import say

ENGINE_FILE = "engine.json"
FOR_ANY_NUMBER = ("ddp", "fsdp2")
"""Engines whose checkpoints hold whole weights and optimizer states."""


class EngineReport(TrainerCallback):
    """Says the engine's class, its ZeRO stage, the number of processes and the device.

    Args:
        trainer: The trainer that the callback belongs to.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """One line, on the main process."""
        if state.is_world_process_zero:
            say(f"engine: {engine(self.trainer)}")


def engine(trainer: Trainer) -> str:
    """For example `DeepSpeedEngine, ZeRO stage 2, 2 processes, cpu`."""
    wrapped: Any = trainer.model_wrapped
    accelerator = trainer.accelerator
    parts = [type(wrapped).__name__]
    if hasattr(wrapped, "zero_optimization_stage"):
        parts.append(f"ZeRO stage {wrapped.zero_optimization_stage()}")
    if any(isinstance(parameter, DTensor) for parameter in wrapped.parameters()):
        parts.append("DTensor parameters")
    number = accelerator.num_processes
    parts.append(f"{number} process{'es' if number > 1 else ''}")
    return ", ".join([*parts, str(accelerator.device)])


@contextmanager
def deepspeed_agrees() -> Iterator[None]:
    """Turns DeepSpeed's settings that are not the recipe's into an error with what to write.

    Raises:
        InputError: transformers found some, in the launcher's file or in `trainer.deepspeed`.
    """
    try:
        yield
    except ValueError as error:
        if "mismatch TrainingArguments" not in str(error):
            raise
        found = [line.strip("- ") for line in str(error).splitlines() if line.startswith("-")]
        raise InputError(
            f"DeepSpeed's settings are not the recipe's: {'; '.join(found)}; write the recipe's there, or "
            "auto, or leave them out"
        ) from error


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
        raise InputError(FSDP2_ONLY)
    optimizer = OptimizerNames(trainer.args.optim).value
    if (plugin is not None or trainer.is_fsdp_enabled) and is_of_matrices(optimizer):
        raise InputError(
            f"trainer.optim: {optimizer} goes by the rows and columns of each weight, and this "
            "engine keeps weights in flat parts; write adamw_torch, or take --launch ddp"
        )


def engine_of(trainer: Trainer) -> dict[str, Any]:
    """What a checkpoint's files depend on: `engine`, as `--launch` has it, and `num_processes`."""
    plugin: Any = trainer.accelerator.state.deepspeed_plugin
    if trainer.is_fsdp_enabled:
        engine = "fsdp2"
    else:
        engine = "ddp" if plugin is None else f"zero{plugin.zero_stage}"
    return {"engine": engine, "num_processes": trainer.accelerator.num_processes}


def write_engine(trainer: Trainer, checkpoint: Path) -> None:
    """Notes beside a checkpoint's files what they are of."""
    (checkpoint / ENGINE_FILE).write_text(json.dumps(engine_of(trainer)))


def check_engine_of(checkpoint: Path, trainer: Trainer) -> None:
    """Refuses a checkpoint that this engine, or this number of processes, cannot read.

    Raises:
        InputError: With the options to write.
    """
    if not (checkpoint / ENGINE_FILE).exists():
        return  # Of a version that did not note it.
    was, now = json.loads((checkpoint / ENGINE_FILE).read_text()), engine_of(trainer)
    if was == now:
        return
    if was["engine"] == now["engine"] and now["engine"] in FOR_ANY_NUMBER:
        say(
            f"warning: {checkpoint.name} is of {_told(was)}, and this is {_told(now)}: what is drawn "
            "at random differs from here on, and so does the batch, unless "
            "trainer.gradient_accumulation_steps makes up for it"
        )
        return
    raise InputError(
        f"{checkpoint}: was written by {_told(was)}, and this is {_told(now)}; {_instead(was)}, or "
        "resume: never to begin anew"
    )


def _told(engine: dict[str, Any]) -> str:
    count = engine["num_processes"]
    return f"{engine['engine']} with {count} processes" if count > 1 else "one process"


def _instead(engine: dict[str, Any]) -> str:
    count = engine["num_processes"]
    if engine["engine"] == "ddp" and count == 1:
        return "run it without --launch"
    return f"write --launch {engine['engine']} --num-processes {count}"
