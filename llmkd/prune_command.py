"""`llmkd prune`: a prune stage without a recipe, and the report by which to choose its size."""

import json as json_format
from pathlib import Path
from typing import Annotated, Any

import typer

from llmkd.command import Debug, Json, Quiet, command, dumped, show
from llmkd.errors import InputError
from llmkd.options import naming_options

OPTIONS = {
    "model.model_name_or_path": "MODEL",
    "model.dtype": "--dtype",
    "data.dataset_name": "--data",
    "data.dataset_split": "--data",
    # Which have no option.
    "another dataset_split, or the path": "the path",
    "by columns:": "by a recipe's data.columns:",
    **dict.fromkeys(("data.max_length", "max_length"), "--max-length"),
    "num_examples": "--num-examples",
    "batch_size": "--batch-size",
    **dict.fromkeys(("depth.remove_layers", "remove_layers"), "--remove-layers"),
    "depth.importance": "--importance",
    **dict.fromkeys(("depth.protect_first", "protect_first"), "--protect-first"),
    **dict.fromkeys(("depth.protect_last", "protect_last"), "--protect-last"),
    **dict.fromkeys(("width.intermediate_size", "intermediate_size"), "--intermediate-size"),
    **dict.fromkeys(("width.num_key_value_heads", "num_key_value_heads"), "--num-key-value-heads"),
}
"""What a recipe calls them."""


def prune(
    model: Annotated[str, typer.Argument(help="A model folder or hub name.")],
    data: Annotated[
        str | None, typer.Option("--data", help="Rows to calibrate on: a file, folder or hub name.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="The pruned model's folder; of --report its HTML file."),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Prune nothing: measure what each size would cost.")
    ] = False,
    remove_layers: Annotated[
        int | None, typer.Option("--remove-layers", help="How many; with --report the most.")
    ] = None,
    importance: Annotated[
        str, typer.Option("--importance", help="angular_distance or block_influence.")
    ] = "angular_distance",
    protect_first: Annotated[int, typer.Option(help="Layers at the start that stay.")] = 1,
    protect_last: Annotated[int, typer.Option(help="Layers at the end that stay.")] = 1,
    intermediate_size: Annotated[
        int | None, typer.Option(help="MLP channels of each layer that stay.")
    ] = None,
    num_key_value_heads: Annotated[
        int | None, typer.Option(help="Key-value heads of each layer that stay.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Type of the weights: auto keeps it, or float32, bfloat16, float16.")
    ] = "auto",
    num_examples: Annotated[int, typer.Option(help="Rows to calibrate on.")] = 256,
    held_out: Annotated[
        str | None,
        typer.Option(help="Of --report: rows for perplexity; default other rows of --data."),
    ] = None,
    num_held_out: Annotated[int, typer.Option(min=1, help="Of --report: so many rows.")] = 64,
    max_length: Annotated[int, typer.Option(help="Tokens of a row that are read.")] = 512,
    batch_size: Annotated[int, typer.Option(help="Rows read together.")] = 8,
    seed: Annotated[int, typer.Option(help="Decides which rows are drawn.")] = 0,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Leave out what matters least of a model, or report what each size would cost."""
    with command(quiet, debug), naming_options(OPTIONS):
        depth = {
            "remove_layers": remove_layers,
            "importance": importance,
            "protect_first": protect_first,
            "protect_last": protect_last,
        }
        width = {
            "intermediate_size": intermediate_size,
            "num_key_value_heads": num_key_value_heads,
        }
        # 0 is not left out: the schema says what is wrong with it.
        has_width = any(size is not None for size in width.values())
        if report and has_width:
            raise InputError(
                "--report: measures what layers cost; leave --intermediate-size and "
                "--num-key-value-heads out"
            )
        if not (report or has_width or remove_layers is not None):
            raise InputError(
                "MODEL: nothing is left out of it; write --remove-layers, --intermediate-size, "
                "--num-key-value-heads, or --report"
            )
        if data is None:
            raise InputError(
                "--data: missing; write rows to calibrate on, on which importance is measured"
            )
        if report and remove_layers is None:
            depth["remove_layers"] = 1  # Said for the schema's sake; as many as may are tried.
        stage = _stage(
            {
                "model": {"model_name_or_path": model, "dtype": dtype},
                "data": {"dataset_name": data, "max_length": max_length},
                "num_examples": num_examples,
                "batch_size": batch_size,
                "depth": None if depth["remove_layers"] is None else depth,
                "width": width if has_width else None,
            }
        )
        if report:
            rows = {"held_out": held_out, "num_held_out": num_held_out}
            _report(
                stage, output or Path("pruning.html"), json, most=remove_layers, seed=seed, **rows
            )
        else:
            _prune(stage, output, json, seed=seed)


def _stage(fields: dict[str, Any]) -> Any:
    from llmkd.recipe.load import checked_recipe

    content = {"name": "prune", "stages": {"prune": {"kind": "prune", **fields}}}
    return checked_recipe(content).stages["prune"]


def _report(stage: Any, output: Path, as_json: bool, **options: Any) -> None:
    from llmkd.pruning.run_survey import run_survey
    from llmkd.report.pruning_page import pruning_page
    from llmkd.report.write import write_page

    found = run_survey(stage, **options)
    write_page(output, pruning_page(found))
    show(dumped({"report": str(output), **found}) if as_json else str(output))


def _prune(stage: Any, output: Path | None, as_json: bool, *, seed: int) -> None:
    if output is None:
        raise InputError("--output: missing; write the folder for the pruned model, or --report")
    if output.exists():
        raise InputError(f"--output: {output} is there already; write another folder")
    from llmkd.progress import progress
    from llmkd.pruning.record import PRUNING
    from llmkd.pruning.run import run_prune
    from llmkd.training.checkpoints import removed_on_failure

    staged = output.with_name(f".{output.name}.staging")
    with removed_on_failure(staged), progress("prune") as moved:
        run_prune(stage, staged, name=output.name, seed=seed, progress=moved)
        (staged / PRUNING).rename(staged / "model" / PRUNING)
        (staged / "model").rename(output)
        staged.rmdir()
    record = json_format.loads((output / PRUNING).read_text())
    show(dumped({"output": str(output), **record}) if as_json else str(output))
