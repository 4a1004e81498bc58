"""`llmkd merge`: a merge stage without a recipe."""

from pathlib import Path
from typing import Annotated, Any

import typer

from llmkd.command import Debug, Json, Quiet, command, dumped, show
from llmkd.errors import InputError
from llmkd.options import naming_options

METHODS = ("slerp", "linear", "task_arithmetic")
OPTIONS = {
    "stages.merge.models": "MODELS",
    "method": "--method",
    "method: {kind: linear}": "--method linear",
    "method.base": "--base",
    **dict.fromkeys(("method.weight", "method.weights"), "--weight"),
    "normalize: false": "others",  # Which has no option.
    "max_shard_size": "--max-shard-size",
}
"""What a recipe calls them."""


def merge(
    models: Annotated[
        list[str], typer.Argument(help="Model folders, hub names, or folders of LoRA adapters.")
    ],
    output: Annotated[Path, typer.Option("--output", help="The new model's folder.")],
    method: Annotated[
        str, typer.Option("--method", help="slerp, linear or task_arithmetic.")
    ] = "slerp",
    weight: Annotated[
        list[float] | None,
        typer.Option("--weight", help="slerp: of the second model; else one for each model."),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="What task_arithmetic starts from.")
    ] = None,
    max_shard_size: Annotated[
        str, typer.Option("--max-shard-size", help="The largest file of weights.")
    ] = "5GB",
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make one model of several, tensor by tensor; prints what they have in common."""
    numbered = {f"models.{index}": f"model {index + 1}" for index in range(len(models))}
    with command(quiet, debug), naming_options(OPTIONS | numbered):
        stage = _stage(models, method, weight or [], base, max_shard_size)
        if output.exists():
            raise InputError(f"--output: {output} is there already; write another folder")
        from llmkd.merging.merge import merge as merge_models
        from llmkd.progress import progress

        with progress("merge") as moved:
            found = merge_models(stage, output, name=output.name, progress=moved)
        show(dumped({"output": str(output), **found}) if json else str(output))


def _stage(
    models: list[str], method: str, weights: list[float], base: str | None, max_shard_size: str
) -> Any:
    from llmkd.recipe.load import checked_recipe

    if method not in METHODS:
        raise InputError(f"--method: {method}; write {', '.join(METHODS[:-1])} or {METHODS[-1]}")
    if method == "slerp" and len(weights) > 1:
        raise InputError(
            "--weight: slerp has one, of the second model; write it once, or --method linear"
        )
    if (base is not None) != (method == "task_arithmetic"):
        raise InputError(
            "--base: is what task_arithmetic starts from; write --method task_arithmetic --base MODEL, "
            "or neither"
        )
    fields = {"weight": weights[0]} if method == "slerp" and weights else {}
    if method != "slerp" and weights:
        fields = {"weights": weights}
    if base is not None:
        fields = {**fields, "base": base}
    stage = {"kind": "merge", "models": models, "max_shard_size": max_shard_size}
    content = {"name": "merge", "stages": {"merge": stage | {"method": {"kind": method, **fields}}}}
    return checked_recipe(content).stages["merge"]
