"""From run folders to report.html."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmkd.errors import InputError
from llmkd.evaluation.compare import compare_records
from llmkd.report.page import groups_of_one, page, teachers
from llmkd.report.roles import find_roles, only_twin
from llmkd.report.run_files import RunFiles, read_run
from llmkd.report.template import MARK
from llmkd.report.verdict import Group, groups_of_runs
from llmkd.run_folder import write_atomically

REPORT = "report.html"


def write_report(
    folders: Sequence[Path], output: Path | None = None, baseline: str | None = None
) -> Path:
    """Writes the report of one run, or of several with different seeds.

    Args:
        folders: Run folders.
        output: The HTML file; default `report.html` in the run's folder, for several runs in the
            current one.
        baseline: The model that students are compared with; default the twin, where there is one.

    Returns:
        The file's path.

    Raises:
        InputError: A folder is no run, the runs do not belong together, or the file is not a report.
    """
    runs = [read_run(folder) for folder in folders]
    path = output or (runs[0].folder / REPORT if len(runs) == 1 else Path(REPORT))
    _check_baseline(runs, baseline)
    if len(runs) == 1:
        html = page(runs, groups_of_one(runs[0], baseline))
    else:
        html = _page_of_several(runs, baseline)
    write_page(path, html)
    return path


def write_page(path: Path, html: str) -> None:
    """Puts a page in place of an older one, or where nothing is.

    Raises:
        InputError: Something else is there, or it cannot be written.
    """
    try:
        _check_output(path)
        write_atomically(path, html)
    except OSError as error:
        raise InputError(
            f"--output: {path} cannot be written ({error.strerror}); write another file"
        ) from error


def _page_of_several(runs: Sequence[RunFiles], baseline: str | None) -> str:
    _check_belong_together(runs)
    differing = differences(runs)
    if not all(run.records for run in runs):
        without = ", ".join(str(run.folder) for run in runs if not run.records)
        problem = f"no results yet in {without}; run `llmkd train` there to the end"
        return page(runs, [], comparison_problem=problem, differing=differing)
    try:
        groups = _compared(runs, baseline)
    except InputError as error:
        return page(runs, [], comparison_problem=str(error), differing=differing)
    return page(runs, groups, differing=differing)


def _compared(runs: Sequence[RunFiles], baseline: str | None) -> list[Group]:
    recipe = runs[0].recipe
    chosen = baseline or only_twin(recipe, [record.model for record in runs[0].records])
    compared = compare_records({run.folder: run.records for run in runs}, chosen)
    return groups_of_runs(compared, find_roles(recipe), teachers(runs[0]), chosen)


def differences(runs: Sequence[RunFiles]) -> list[str]:
    """The dotted keys in which the recipes differ, but for what every run has its own of."""
    contents = [
        run.recipe.model_dump(mode="json", exclude={"seed", "output_dir", "description"})
        for run in runs
    ]
    found = [key for content in contents[1:] for key in _differing(contents[0], content)]
    return list(dict.fromkeys(found))


def _differing(first: Any, second: Any, key: str = "") -> list[str]:
    if first == second:
        return []
    if isinstance(first, dict) and isinstance(second, dict):
        keys = [*first, *(name for name in second if name not in first)]
        return [
            found
            for name in keys
            for found in _differing(
                first.get(name), second.get(name), f"{key}.{name}" if key else name
            )
        ]
    return [key]


def _check_belong_together(runs: Sequence[RunFiles]) -> None:
    seeds = [run.recipe.seed for run in runs]
    if len(set(seeds)) < len(seeds):
        raise InputError(
            f"RUNS: seeds {', '.join(map(str, seeds))}; name run folders with different seeds "
            "(llmkd train RECIPE seed=1 output_dir=...)"
        )
    for run in runs[1:]:
        if list(run.recipe.stages) != list(runs[0].recipe.stages):
            raise InputError(
                f"{run.folder}: has other stages than {runs[0].folder}; name runs of one recipe"
            )


def _check_baseline(runs: Sequence[RunFiles], baseline: str | None) -> None:
    models = dict.fromkeys(record.model for run in runs for record in run.records)
    if baseline is not None and baseline not in models:
        instead = f"write one of {', '.join(models)}" if models else "nothing was measured yet"
        raise InputError(f"--baseline: no model {baseline}; {instead}")


def _check_output(path: Path) -> None:
    """A report may be replaced, any other file not."""
    if path.is_dir():
        raise InputError(f"--output: {path} is a folder; write a file, such as {path / REPORT}")
    if not path.exists():
        return
    if not path.is_file():
        raise InputError(f"--output: {path} is a device or a pipe; write a file")
    with path.open("rb") as file:
        begin = file.read(200)
    if begin and MARK.encode() not in begin:
        raise InputError(
            f"--output: {path} is there already and is no report of llmkd; write another file"
        )
