"""Which engine wrote a checkpoint: each has files of its own, and some a file for each process."""

import json
from pathlib import Path
from typing import Any

from transformers import Trainer

from llmkd.errors import InputError
from llmkd.progress import say

ENGINE_FILE = "engine.json"
FOR_ANY_NUMBER = ("ddp", "fsdp2")
"""Engines whose checkpoints hold whole weights and optimizer states."""


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
