"""A recipe's stages, in order: which are finished, which go on, each in a process of its own.

Imports no torch. A stage's memory goes back to the system with its process.
"""

import json
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml

from llmkd.advice import how_it_ended
from llmkd.children import ChildFailedError, run_child
from llmkd.errors import InputError
from llmkd.evaluation.results import Record, read_results, write_results
from llmkd.exit_statuses import BAD_INPUT, FAILED, TERMINATED
from llmkd.failure import reported
from llmkd.faults import explained
from llmkd.launch import Launch
from llmkd.processes import die_with_launcher
from llmkd.progress import say
from llmkd.quiet_libraries import quiet_libraries
from llmkd.rank_messages import error_log
from llmkd.recipe.cross_checks import MODEL_KINDS
from llmkd.recipe.dump import to_yaml
from llmkd.recipe.foreign_code import refuse_code
from llmkd.recipe.grpo_arguments import TRAINER_BLOCKS
from llmkd.recipe.references import needed_for
from llmkd.recipe.schema import (
    EvaluateStage,
    Recipe,
    TeacherDataStage,
)
from llmkd.recipe.yaml_places import read_file
from llmkd.run_folder import environment, fingerprint, held, read_stage, write_atomically
from llmkd.run_plan import RESOLVED_RECIPE, RESULTS, Run
from llmkd.run_stage import ALONE, SHARE, Share, is_launched, is_main, run_stage


class StageFailedError(ChildFailedError):
    """A stage's process ended otherwise than well; it has said why on stderr."""

    def __init__(self, message: str, exit_status: int):
        super().__init__(message, exit_status)
        self.records: list[Record] = []
        """What had been measured all the same."""


def generate_teacher_data(
    recipe: Recipe,
    *,
    names: list[str] | None = None,
    overwrite: bool = False,
    allow_code: bool = False,
    share: Share = ALONE,
) -> list[str]:
    """Runs the stages that a teacher is asked in, and the earlier ones that these need.

    Args:
        recipe: From `llmkd.recipe.load`.
        names: Of those stages; None takes all.
        overwrite: As of `run`.
        allow_code: As of `run`.
        share: Which of how many processes this is. Each needs a run folder of its own, and
            `llmkd cache merge` joins their stores.

    Returns:
        The names of the stages that a teacher was asked in.

    Raises:
        InputError: There are none; and as of `run`.
        StageFailedError: As of `run`.
    """
    asked = [n for n, stage in recipe.stages.items() if isinstance(stage, TeacherDataStage)]
    asked = asked if names is None else names
    if not asked:
        raise InputError(
            "stages: none of them asks a teacher; add one of kind: generate, or kind: score"
        )
    if share != ALONE:
        _refuse_to_share(recipe, asked)
    job = Run(recipe)
    try:
        os.environ[SHARE] = f"{share[0]}/{share[1]}"
        with explained(job.folder), held(job.folder) as lock:
            needed = needed_for(recipe, asked)
            _run_unfinished(job, needed, lock, overwrite=overwrite, allow_code=allow_code)
    finally:
        del os.environ[SHARE]
    return asked


def _refuse_to_share(recipe: Recipe, asked: list[str]) -> None:
    for name in asked:
        for other in needed_for(recipe, [name]):
            if other in asked and other != name:
                raise InputError(
                    f"--shard: stage {name} takes what stage {other} makes, of which a share has a "
                    "part; put them in two recipes, and merge the first one's shares before the second"
                )


def run(
    recipe: Recipe,
    *,
    overwrite: bool = False,
    allow_code: bool = False,
    launch: Launch | None = None,
) -> list[Record]:
    """Runs what is not finished yet; returns the results of all evaluate stages.

    Under an external launcher (torchrun, accelerate, deepspeed) the first unfinished stage, which
    must be a train stage, runs in place, and nothing after it.

    Args:
        recipe: From `llmkd.recipe.load`.
        overwrite: Do stages anew whose inputs changed since the folder was written.
        allow_code: Run the programs and functions that the recipe names.
        launch: How many processes do the train stages, and by which engine; None takes one.

    Raises:
        InputError: The folder is in use, or was made from something else.
        StageFailedError: A stage failed; what it had saved is there for the next run.
        SystemExit: The same under an external launcher, where each process has said what failed.
    """
    job = Run(recipe)
    if is_launched():
        die_with_launcher()
        if overwrite:
            raise InputError("--overwrite: not under a launcher; run once without one")
        with explained(job.folder), held(job.folder) if is_main() else nullcontext():
            _run_in_place(job, allow_code=allow_code)
        return []
    with explained(job.folder), held(job.folder) as lock:
        try:
            names = list(recipe.stages)
            _run_unfinished(
                job, names, lock, overwrite=overwrite, allow_code=allow_code, launch=launch
            )
        except StageFailedError as error:
            if error.exit_status == FAILED:  # Not where time is short, or nothing has begun.
                error.records = _gather_results(job)
                _write_report(job)
            raise
        records = _gather_results(job)
        _write_report(job)
        return records


def _run_unfinished(
    job: Run,
    names: list[str],
    lock: int,
    *,
    overwrite: bool,
    allow_code: bool,
    launch: Launch | None = None,
) -> None:
    unfinished = unfinished_stages(job, overwrite=overwrite)
    if not allow_code:
        refuse_code(job.recipe, [name for name in names if name in unfinished])
    if set(unfinished) & set(names):
        _set_results_aside(job)
        _describe(job)
    elif not _has_same_stages(job):
        _describe_recipe(job)
    for number, name in enumerate(names, start=1):
        position = f"[{number}/{len(names)}] {name}"
        if name not in unfinished:
            say(f"{position}: finished before")
            continue
        say(f"{position}: {job.recipe.stages[name].kind}")
        started = time.monotonic()
        _run_in_child(job, name, lock, launch)
        say(f"{position}: done in {time.monotonic() - started:.0f} s")


def _has_same_stages(job: Run) -> bool:
    """Whether the folder's recipe has this one's stages: one of them may be left out by now."""
    try:
        content = read_file(job.folder / RESOLVED_RECIPE).value
        return list(content["stages"]) == list(job.recipe.stages)
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return False


def _set_results_aside(job: Run) -> None:
    """Takes gathered results out of the way: they are of what the folder held before."""
    if (job.folder / RESULTS).exists():
        _set_aside(job.folder / RESULTS)


def _describe(job: Run) -> None:
    _describe_recipe(job)
    content = json.dumps(environment(), indent=2) + "\n"
    write_atomically(job.folder / "environment.json", content)


def _describe_recipe(job: Run) -> None:
    write_atomically(job.folder / RESOLVED_RECIPE, to_yaml(job.recipe))


def unfinished_stages(job: Run, *, overwrite: bool = False) -> list[str]:
    """The stages to run: begun or not, but not those whose product is whole and still holds.

    Raises:
        InputError: What a stage depends on has changed, and it is not to be done anew.
    """
    names: list[str] = []
    for name in job.recipe.stages:
        state = read_stage(job.stage_folder(name))
        inputs = job.inputs(name)
        if state is None:
            names.append(name)
        elif state.fingerprint != fingerprint(inputs):
            if not overwrite:
                raise InputError(
                    f"stages.{name}: {_what_changed(state.inputs, inputs)} changed since "
                    f"{job.stage_folder(name)} was written; write output_dir=ANOTHER_FOLDER to "
                    "keep both, or --overwrite to do the stage anew"
                )
            _set_aside(job.stage_folder(name))
            names.append(name)
        elif not state.is_finished or not job.has_product(name):
            names.append(name)
    return names


def _set_aside(path: Path) -> None:
    """Takes a file or folder out of the way, so that nothing of it is mistaken for the new."""
    number = 1
    while (target := path.with_name(f".{path.name}.old-{number}")).exists():
        number += 1
    path.rename(target)


def _what_changed(old: Any, new: Any, key: str = "") -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        changed = [k for k in {**old, **new} if old.get(k) != new.get(k)]
        return ", ".join(
            _what_changed(old.get(k), new.get(k), f"{key}.{k}" if key else str(k)) for k in changed
        )
    return key.removeprefix("stage.")


def _run_in_child(job: Run, name: str, lock: int, launch: Launch | None) -> None:
    if launch is not None and job.recipe.stages[name].kind in TRAINER_BLOCKS:
        command = launch.command("llmkd.stage_process", str(job.folder), name)
    else:
        arguments = [str(job.folder), name, str(os.getpid())]
        # -P: Python would take modules from the current folder first, which may be a stranger's.
        command = [sys.executable, "-P", "-m", "llmkd.stage_process", *arguments]
    # The child shares the lock, so the folder stays held until both are gone.
    child = run_child(command, lock)
    if child.exit_status == TERMINATED:
        go_on = "the same command again goes on from what was saved"
        raise StageFailedError(f"ended by SIGTERM in stage {name}; {go_on}", TERMINATED)
    if child.exit_status == BAD_INPUT:
        raise StageFailedError(f"stage {name} has bad input", BAD_INPUT)
    if child.exit_status != 0:
        ended = how_it_ended(job.recipe.stages[name], job.stage_folder(name), child.status)
        raise StageFailedError(f"stage {name} {ended}", FAILED)


def _run_in_place(job: Run, *, allow_code: bool) -> None:
    unfinished = unfinished_stages(job, overwrite=False)
    if not unfinished:
        return
    name = unfinished[0]
    if not allow_code:
        refuse_code(job.recipe, [name])
    if is_main():
        _set_results_aside(job)
        _describe(job)
    if job.recipe.stages[name].kind not in TRAINER_BLOCKS:
        raise InputError(
            f"stages.{name}: kind {job.recipe.stages[name].kind} does not run under a launcher; "
            "run `llmkd train` without one up to here, then again with it"
        )
    quiet_libraries()
    with reported(log=job.stage_folder(name) / error_log()):
        run_stage(job, name)


def _gather_results(job: Run) -> list[Record]:
    records: list[Record] = []
    for name, stage in job.recipe.stages.items():
        path = job.stage_folder(name) / RESULTS
        if isinstance(stage, EvaluateStage) and path.exists():
            records += read_results(path)
    if records:
        write_results(job.folder / RESULTS, records)
        _add_to_model_cards(job, records)
    else:
        _set_results_aside(job)
    return records


def _write_report(job: Run) -> None:
    """Writes report.html; whatever goes wrong with it, the run is done."""
    try:
        # Here, for its template engine is of no use before.
        from llmkd.report.write import write_report

        write_report([job.folder])
    except Exception as error:  # noqa: BLE001 - a report is not worth a run.
        reason = " ".join(str(error).split()) or type(error).__name__
        again = f"`llmkd report {job.folder}` tries again"
        print(f"report.html: not written ({reason}); {again}", file=sys.stderr)  # noqa: T201


def _add_to_model_cards(job: Run, records: list[Record]) -> None:
    from llmkd.training.model_card import with_results

    for name, stage in job.recipe.stages.items():
        card = job.stage_folder(name) / "model" / "README.md"
        own = [record for record in records if record.model == name]
        if stage.kind in MODEL_KINDS and own and card.exists():
            write_atomically(card, with_results(card.read_text(), own))
