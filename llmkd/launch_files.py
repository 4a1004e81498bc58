"""Files of accelerate's launcher: the shipped ones, and those of `--launch FILE`. Imports no torch."""

from pathlib import Path
from typing import Any

import yaml

from llmkd.errors import InputError
from llmkd.progress import say
from llmkd.recipe.local_paths import expanded, is_there
from llmkd.recipe.places import meant
from llmkd.recipe.shipped import LAUNCHERS, shipped_folder

ENGINES = ("ddp", "zero1", "zero2", "zero3", "fsdp2")
"""Names that `--launch` takes: of files in `recipes/accelerate/`."""
HOW_MADE = "`accelerate config --config_file FILE` writes one"


def launcher_file(engine: str) -> Path:
    """The file behind `--launch`.

    Raises:
        InputError: There is none, or nothing that a training can be launched by.
    """
    if engine in ENGINES:
        return shipped_folder("recipes") / LAUNCHERS / f"{engine}.yaml"
    path = expanded(engine)
    if not is_there(path) or path.is_dir():
        raise InputError(
            f"--launch: no such engine or file {engine}; {meant(engine, list(ENGINES))}, or the path of "
            f"a launcher's file; {HOW_MADE}"
        )
    _look_at(path)
    return path


def _look_at(path: Path) -> None:
    """Refuses what accelerate would fall over, and says what the recipe decides in its place."""
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"--launch: {path} cannot be read ({error}); {HOW_MADE}") from error
    if not isinstance(content, dict) or "distributed_type" not in content:
        raise InputError(
            f"--launch: {path} is no file of accelerate's launcher, which has a distributed_type; "
            f"{HOW_MADE}"
        )
    fsdp = content.get("fsdp_config")
    version = fsdp.get("fsdp_version", 1) if isinstance(fsdp, dict) else 1
    if content["distributed_type"] == "FSDP" and str(version) != "2":
        raise InputError(f"--launch: {path}: {FSDP2_ONLY}")
    precision = content.get("mixed_precision") or "no"
    if str(precision) not in ("no", "False"):
        say(
            f"warning: {path}: mixed_precision: {precision} counts for nothing; precision is the "
            "recipe's, which says trainer.bf16: true (or fp16) where it wants that"
        )


FSDP2_ONLY = (
    "FSDP version 1 keeps weights flattened, which the chunked head cannot read; write "
    "fsdp_version: 2 in the launcher's file"
)
