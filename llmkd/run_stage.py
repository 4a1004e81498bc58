"""One stage, done in this process."""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmkd.errors import InputError, LlmkdError
from llmkd.evaluation.results import write_results
from llmkd.evaluation.suites import find_suite
from llmkd.faults import explained
from llmkd.rank_messages import error_log
from llmkd.recipe.base import STAGE_REFERENCE
from llmkd.recipe.schema import (
    CurateStage,
    EvaluateStage,
    GenerateStage,
    KDRLStage,
    MergeStage,
    PruneStage,
    ScoreStage,
    Stage,
    TaskRowsStage,
    TrainStage,
)
from llmkd.run_folder import (
    STAGE_FILE,
    StageState,
    fingerprint,
    now,
    read_stage,
    write_atomically,
    write_stage,
)
from llmkd.run_plan import DETAILS, RESULTS, Run
from llmkd.training.checkpoints import newest_checkpoint

ANSWERS = "answers"
FAILURES = "failures.log"
"""Tracebacks of tasks that failed for a reason that llmkd does not know."""
Share = tuple[int, int]
ALONE: Share = (0, 1)
SHARE = "LLMKD_SHARE"
"""Environment variable that says which of how many processes this is, such as 0/4: of those that ask
a teacher, each does its own shards."""


def run_stage(job: Run, name: str) -> None:
    """Does one stage in this process and marks it finished."""
    stage, folder = job.resolved_stage(name), job.stage_folder(name)
    inputs = job.inputs(name)
    before = read_stage(folder)
    # A stage that was finished is done anew; one that was not goes on, and so does its clock.
    spent = 0.0 if before is None or before.is_finished else before.seconds or 0.0
    started = time.monotonic()

    def note(*, is_finished: bool) -> None:
        if is_main():
            seconds = round(spent + time.monotonic() - started, 3)
            state = StageState(fingerprint(inputs), inputs, is_finished, seconds, now())
            write_stage(folder, state)

    with explained(folder, job.recipe.stages[name]):
        (folder / error_log()).unlink(missing_ok=True)
        note(is_finished=False)
        try:
            _do(job, stage, folder, name)
        except BaseException as error:
            with suppress(OSError):  # What went wrong is what is to be told.
                note(is_finished=False)
                if isinstance(error, InputError) and is_main() and not _has_begun(job, name):
                    # Nothing depends on the inputs yet, so they may be mended as the message says.
                    (folder / STAGE_FILE).unlink()
            raise
        note(is_finished=True)


def _has_begun(job: Run, name: str) -> bool:
    """Whether anything is there that the next attempt would go on from."""
    folder = job.stage_folder(name)
    return (
        job.has_product(name)
        or newest_checkpoint(folder / "checkpoints") is not None
        or any((folder / "store" / "shards").glob("*.arrow"))
        or any((folder / ANSWERS).rglob("answers.jsonl"))
    )


def is_launched() -> bool:
    """Whether torchrun, accelerate or deepspeed started this process as one of several."""
    return "LOCAL_RANK" in os.environ


def is_main() -> bool:
    """Whether this is the only process, or the first of several."""
    # Clusters set RANK for a whole machine too, where nothing was launched.
    return not is_launched() or os.environ.get("RANK", "0") == "0"


def _share() -> Share:
    number, count = os.environ.get(SHARE, "0/1").split("/")
    return int(number), int(count)


def _do(job: Run, stage: Stage, folder: Path, name: str) -> None:
    # Imported here: these bring torch, which only a stage's own process may load.
    seed = job.recipe.seed
    written: Any = job.stage(name)
    match stage:
        case TrainStage():
            from llmkd.training.train import run_train

            run_train(stage, folder, name=name, seed=seed)
        case KDRLStage():
            from llmkd.training.kdrl import run_kdrl

            run_kdrl(stage, folder, name=name, seed=seed)
        case TaskRowsStage():
            from llmkd.data.task_rows import write_task_rows

            write_task_rows(stage, folder, seed=seed)
        case MergeStage():
            from llmkd.merging.merge import merge
            from llmkd.progress import progress

            with progress(name) as moved:
                merge(stage, folder / "model", name=name, progress=moved)
        case GenerateStage() | ScoreStage():
            from llmkd.progress import progress
            from llmkd.teacher_data.capture import run_capture

            with progress(name) as moved:
                teacher = written.teacher.name
                run_capture(
                    stage, folder, seed=seed, progress=moved, teacher=teacher, share=_share()
                )
        case CurateStage():
            from llmkd.curation.run import run_curation
            from llmkd.progress import progress

            with progress(name) as moved:
                run_curation(stage, folder, seed=seed, progress=moved)
        case PruneStage():
            from llmkd.progress import progress
            from llmkd.pruning.run import run_prune

            with progress(name) as moved:
                run_prune(stage, folder, name=name, seed=seed, progress=moved)
        case EvaluateStage():
            assert isinstance(written, EvaluateStage)
            _evaluate(stage, written, folder, name, seed)


def _evaluate(
    stage: EvaluateStage, written: EvaluateStage, folder: Path, name: str, seed: int
) -> None:
    from llmkd.evaluation.details import write_details
    from llmkd.evaluation.evaluate import evaluate
    from llmkd.progress import progress

    labels = [value.removeprefix(STAGE_REFERENCE) for value in written.models]
    teacher = None
    if stage.teacher is not None and written.teacher is not None:
        label = written.teacher.model_name_or_path.removeprefix(STAGE_REFERENCE)
        teacher = (label, stage.teacher)
    with progress(name) as moved:
        found = evaluate(
            list(zip(labels, stage.sources, strict=True)),
            find_suite(stage.suite),
            batch_size=stage.batch_size,
            seed=seed,
            progress=moved,
            folder=folder / ANSWERS,
            engine=stage.engine,
            teacher=teacher,
        )
    # Results come last: their presence says that the stage has its product.
    write_details(folder / DETAILS, found.details)
    write_results(folder / RESULTS, found.records)
    tracebacks = "\n".join(failure.traceback for failure in found.failures)
    write_atomically(folder / FAILURES, tracebacks)
    if found.failures:
        raise LlmkdError("\n".join(map(str, found.failures)))
