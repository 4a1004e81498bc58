"""The command line. torch is imported inside commands only, and only where it is needed.

stdout carries results, stderr progress and messages. Exit status: 0 done, 1 the run failed,
2 bad input, 143 ended by SIGTERM with everything saved.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from llmkd import __version__
from llmkd.cache_commands import cache
from llmkd.command import Debug, Json, Quiet, command, dumped, print_records, show
from llmkd.errors import InputError
from llmkd.eval_command import evaluate
from llmkd.launch_options import (
    DeviceMemory,
    LaunchOption,
    MachineRank,
    MainProcessIp,
    MainProcessPort,
    NumMachines,
    NumProcesses,
)
from llmkd.merge_command import merge
from llmkd.prune_command import prune

app = typer.Typer(
    name="llmkd",
    help="Make a small language model out of a large one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(cache)
app.command("eval")(evaluate)
app.command("merge")(merge)
app.command("prune")(prune)

RecipeArgument = Annotated[str, typer.Argument(help="A recipe's path, or a shipped one's name.")]
OptionalRecipe = Annotated[
    str | None, typer.Argument(help="A recipe's path, or a shipped one's name.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="key=value, such as stages.student.trainer.learning_rate=1e-4"),
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Run the programs, functions and models' code that the recipe names, and send keys.",
    ),
]


@app.command()
def train(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Do stages anew whose inputs changed.")
    ] = False,
    allow_code: AllowCode = False,
    launch: LaunchOption = None,
    num_processes: NumProcesses = None,
    num_machines: NumMachines = 1,
    machine_rank: MachineRank = 0,
    main_process_ip: MainProcessIp = None,
    main_process_port: MainProcessPort = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run a recipe, stage by stage; the same command again goes on where it stopped."""
    with command(quiet, debug):
        from llmkd import pipeline
        from llmkd.launch import launch_of, refuse_other_launchers, run_share_of
        from llmkd.recipe import load
        from llmkd.run_plan import Run

        launched = launch_of(
            launch,
            num_processes=num_processes,
            num_machines=num_machines,
            machine_rank=machine_rank,
            main_process_ip=main_process_ip,
            main_process_port=main_process_port,
        )
        refuse_other_launchers(launched, is_launched=pipeline.is_launched())
        job = Run(load(recipe, overrides or []))
        if launched is not None and launched.num_machines > 1:
            flags = ["--allow-code"] * allow_code + ["--overwrite"] * overwrite
            run_share_of(launched, [recipe, *(overrides or []), *flags])
            return
        if not job.folder.exists() and not pipeline.is_launched():
            # Before the first stage trains for hours: what the last one would be refused for.
            from llmkd.check import check as look_over

            look_over(recipe, overrides or [])
        records = pipeline.run(
            job.recipe, overwrite=overwrite, allow_code=allow_code, launch=launched
        )
        if pipeline.is_launched():
            return
        print_records(records, json, {"output_dir": str(job.folder)})
        if not json and not quiet:
            _print_products(job)


@app.command("generate-teacher-data")
def generate_teacher_data(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            help="I/N: do the I-th of N shares, in a run folder of its own; join by cache merge.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Do stages anew whose inputs changed.")
    ] = False,
    allow_code: AllowCode = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Ask a recipe's teachers, without training students; again: goes on where it stopped."""
    with command(quiet, debug):
        from llmkd import pipeline
        from llmkd.recipe import load
        from llmkd.run_plan import Run

        loaded, share = load(recipe, overrides or []), _share(shard)
        folder = Run(loaded).folder
        if shard is not None:
            own = folder.with_name(f"{folder.name}-{share[0] + 1}-of-{share[1]}")
            loaded = loaded.model_copy(update={"output_dir": str(own)})
        job = Run(loaded)
        names = pipeline.generate_teacher_data(
            loaded, overwrite=overwrite, allow_code=allow_code, share=share
        )
        folders = {name: str(job.stage_folder(name)) for name in names}
        show(dumped(folders) if json else "\n".join(f"{n}: {f}" for n, f in folders.items()))


def _share(shard: str | None) -> tuple[int, int]:
    number, _, count = (shard or "1/1").partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise InputError(
            f"--shard: {shard} is no share; write I/N with I from 1 to N, such as --shard 1/4"
        )
    return int(number) - 1, int(count)


@app.command()
def check(
    recipe: OptionalRecipe = None,
    overrides: Overrides = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the recipe's JSON schema, for editors.")
    ] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Load everything and try each stage on one batch.")
    ] = False,
    launch: LaunchOption = None,
    num_processes: NumProcesses = None,
    device_memory_gib: DeviceMemory = None,
    allow_code: AllowCode = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check a recipe and what it will take; print it with the origin of every value.

    The recipe goes to stdout, what was found out to stderr. Nothing is written to the run folder.
    """
    with command(quiet, debug):
        if schema:
            from llmkd.recipe.json_schema import recipe_schema

            show(dumped(recipe_schema()))
            return
        if recipe is None:
            raise InputError("RECIPE: missing; write a recipe's path, or a shipped one's name")
        from llmkd import check as checking

        report = checking.check(
            recipe,
            overrides or [],
            launch=launch,
            num_processes=num_processes,
            device_memory_gib=device_memory_gib,
        )
        if not json:
            _print_report(report, quiet)
        tried: list[Any] = []
        try:
            if deep:
                _try_stages(report.recipe, tried, allow_code=allow_code)
        finally:
            if json:
                found = {result.name: result.as_data() for result in tried}
                show(dumped(report.as_data() | ({"deep": found} if deep else {})))
            elif tried and not quiet:
                from rich.console import Console

                from llmkd.check.show import tried_table

                Console(stderr=True, highlight=False).print(tried_table(tried))


def _try_stages(recipe: Any, tried: list[Any], *, allow_code: bool) -> None:
    from llmkd.check.deep import try_stages
    from llmkd.progress import say
    from llmkd.recipe.foreign_code import refuse_code
    from llmkd.run_plan import Run

    if not allow_code:
        # Of a curate stage no step is tried.
        names = [name for name, stage in recipe.stages.items() if stage.kind != "curate"]
        refuse_code(recipe, names)
    stages = try_stages(Run(recipe), told=lambda name: say(f"{name}: tries one batch"))
    tried.extend(stages)


@app.command()
def recipes(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """List the recipes that come with llmkd."""
    with command(quiet, debug):
        from llmkd.recipe import load
        from llmkd.recipe.shipped import shipped_recipes

        found = {path.stem: load(path).description for path in shipped_recipes()}
        if json:
            show(dumped(found))
        else:
            width = max(map(len, found), default=0)
            show("\n".join(f"{name:<{width}}  {text}" for name, text in found.items()))


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="A run's folder, or several of one recipe, a seed each.")
    ],
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="Default: the only twin of the recipe.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Put runs with different seeds into one table: means, intervals, paired differences."""
    with command(quiet, debug):
        from llmkd.evaluation.compare import compare_records, markdown
        from llmkd.evaluation.results import read_results
        from llmkd.report.run_files import default_baseline

        if len(runs) == 1:
            print_records(_results_of(runs[0], baseline), json, {})
            return
        records = {run: read_results(run / "results.json") for run in runs}
        models = [record.model for of_run in records.values() for record in of_run]
        rows = compare_records(records, baseline or default_baseline(runs, models))
        show(dumped([vars(row) for row in rows]) if json else markdown(rows))


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="A run's folder, or several of one recipe, a seed each.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Default: report.html in the run's folder, or here."),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="The model that others are compared with.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a run's report: one HTML file with verdict, notices, curves and samples."""
    with command(quiet, debug):
        from llmkd.report.write import write_report

        path = write_report(runs, output, baseline)
        show(dumped({"report": str(path)}) if json else str(path))


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        show(__version__)


def main() -> None:
    """Entry point of `llmkd`."""
    app()


def _print_report(report: Any, quiet: bool) -> None:
    from rich.console import Console

    from llmkd.check.show import facts_table, machine_line
    from llmkd.recipe.origins import to_yaml_with_origins

    show(to_yaml_with_origins(report.recipe, report.source).rstrip())
    console = Console(stderr=True, highlight=False, soft_wrap=False)
    if not quiet:
        console.print(facts_table(report))
        console.print(machine_line(report), markup=False)
    for warning in report.warnings:
        console.print(f"warning: {warning}", markup=False)


def _results_of(run: Path, baseline: str | None) -> list[Any]:
    """One run's records."""
    from llmkd.evaluation.results import read_results

    if baseline is not None:
        raise InputError("--baseline: one run has no pairs; leave it out, or name more runs")
    return read_results(run / "results.json")


def _print_products(job: Any) -> None:
    from llmkd.recipe.cross_checks import MODEL_KINDS

    names = [name for name, stage in job.recipe.stages.items() if stage.kind in MODEL_KINDS]
    lines = [f"{name}: {job.product(name)}" for name in names]
    report = job.folder / "report.html"
    show("\n".join(lines + [f"report: {report}"] * report.exists()))
