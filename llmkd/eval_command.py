"""`llmkd eval`: a recipe of one evaluate stage, from the command line's options.

So it has what a run has: a folder with results.json and report.html, a process of its own for each
stage, answers that are kept as they come, and the same command again goes on where it stopped.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from llmkd.command import Debug, Json, Quiet, command, print_records
from llmkd.errors import InputError, LlmkdError
from llmkd.options import naming_options

STAGE = "evaluation"
Texts = list[str] | None
OPTIONS = {
    "stages.evaluation.models": "MODELS",
    "teacher.model_name_or_path": "--teacher",
    "engine": "--engine",
    "engine.kind": "--engine",
    "batch_size": "--batch-size",
}
"""What a recipe calls them."""


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(help="Folders or hub names; others are compared with the first one."),
    ],
    suite: Annotated[
        str, typer.Option("--suite", help="A shipped suite's name, or a suite's YAML file.")
    ] = "procedural",
    tasks: Annotated[
        str | None, typer.Option("--tasks", help="Some of the suite's tasks: gsm8k,svamp")
    ] = None,
    data: Annotated[
        Texts, typer.Option("--data", help="TASK=FILE: measure a task on this file instead.")
    ] = None,
    columns: Annotated[
        Texts,
        typer.Option("--columns", help="TASK.COLUMN=NAME: what TASK's file calls a column."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Measure at most the first so many rows.")
    ] = None,
    num_samples: Annotated[
        int | None, typer.Option("--num-samples", min=1, help="Answers to each question.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0, help="Of the sampling; 0 is greedy.")
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option("--num-fewshot", min=0, help="Solved examples before each.")
    ] = None,
    chat_template: Annotated[
        bool | None,
        typer.Option("--chat-template/--no-chat-template", help="Ask in the model's chat format."),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="Whom students are compared with.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", help="What writes: transformers, or vllm.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the models.")
    ] = False,
    allow_code: Annotated[
        bool,
        typer.Option("--allow-code", help="Run code of models, and of a suite's own tasks."),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Measure anew what --output-dir has of other inputs."),
    ] = False,
    output_dir: Annotated[
        str | None, typer.Option("--output-dir", help="Default: runs/eval/SUITE-DIGEST.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Write results.json here too.")
    ] = None,
    batch_size: Annotated[
        str, typer.Option("--batch-size", help="auto: halved whenever memory runs out.")
    ] = "128",
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure models side by side; the same command again goes on where it stopped."""
    with command(quiet, debug):
        from llmkd import pipeline
        from llmkd.evaluation.suites import (
            find_suite,
            with_data,
            with_limit,
            with_settings,
            with_tasks,
        )

        chosen = find_suite(suite)
        if tasks is not None:
            chosen = with_tasks(chosen, tasks.split(","))
        chosen = with_data(chosen, data or [], columns or [])
        if limit is not None:
            chosen = with_limit(chosen, limit)
        for option, settings in [
            # Together, as many samples need a temperature.
            (
                "--num-samples, --temperature",
                {
                    ("generation", "num_samples"): num_samples,
                    ("generation", "temperature"): temperature,
                },
            ),
            ("--num-fewshot", {("num_fewshot",): num_fewshot}),
            ("--chat-template", {("apply_chat_template",): chat_template}),
        ]:
            given = {place: value for place, value in settings.items() if value is not None}
            if given:
                chosen = with_settings(chosen, given, option)
        if output:
            _check_output(output)
        stage = {
            "kind": "evaluate",
            "models": models,
            "trust_remote_code": trust_remote_code,
            "suite": chosen.model_dump(mode="json"),
            "teacher": None
            if teacher is None
            else {
                "model_name_or_path": teacher,
                "dtype": "auto",
                "trust_remote_code": trust_remote_code,
            },
            "engine": None if engine is None else {"kind": engine},
            "batch_size": int(batch_size) if batch_size.isdecimal() else batch_size,
        }
        numbered = {f"models.{index}": f"model {index + 1}" for index in range(len(models))}
        with naming_options(OPTIONS | numbered):
            job = _job(stage, seed, output_dir)
        try:
            records = pipeline.run(job.recipe, overwrite=overwrite, allow_code=allow_code)
        except pipeline.StageFailedError as error:
            # Some tasks were measured all the same.
            _tell(job, error.records, json, quiet, output)
            raise
        _tell(job, records, json, quiet, output)


def _job(stage: dict[str, Any], seed: int, output_dir: str | None) -> Any:
    from llmkd.recipe.load import checked_recipe
    from llmkd.run_folder import fingerprint
    from llmkd.run_plan import Run

    name = stage["suite"]["name"]
    content = {"name": "eval", "seed": seed, "stages": {STAGE: stage}}
    job = Run(checked_recipe(content))
    if output_dir is None:
        output_dir = f"runs/eval/{name}-{fingerprint(job.inputs(STAGE))[:8]}"
    return Run(job.recipe.model_copy(update={"output_dir": output_dir}))


def _tell(job: Any, records: list[Any], json: bool, quiet: bool, output: Path | None) -> None:
    from llmkd.evaluation.details import read_differences
    from llmkd.run_plan import DETAILS

    if not records:
        return
    # Printed first: what cannot be written is not lost.
    found = read_differences(job.stage_folder(STAGE) / DETAILS)
    print_records(records, json, {"output_dir": str(job.folder)}, found)
    report = job.folder / "report.html"
    if not json and not quiet and report.exists():
        typer.echo(f"report: {report}")
    if output:
        _write_output(output, records)


def _check_output(path: Path) -> None:
    from llmkd.evaluation.results import check_replaceable

    try:
        check_replaceable(path)
    except (InputError, OSError) as error:
        raise InputError(f"--output: {error}") from error


def _write_output(path: Path, records: list[Any]) -> None:
    from llmkd.evaluation.results import write_results

    try:
        write_results(path, records)
    except OSError as error:
        raise LlmkdError(
            f"--output: {path} cannot be written ({error.strerror}); the results are on stdout"
        ) from error
