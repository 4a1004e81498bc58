"""Capturing again what became damaged in a store, from the recipe of the run that it is in."""

from pathlib import Path

from llmkd import pipeline
from llmkd.errors import InputError
from llmkd.progress import Progress
from llmkd.recipe import load
from llmkd.run_plan import RESOLVED_RECIPE, Run
from llmkd.teacher_data.places import STORE, store_folder
from llmkd.teacher_data.store.folder import missing_shards, need_settings
from llmkd.teacher_data.store.verify import damaged, rebuild, remove_shards


def repair(path: Path, progress: Progress) -> list[int]:
    """Makes a store whole again: the same bytes, where the engine gives the same answers.

    Args:
        path: The store, or its stage's folder.
        progress: Called with (done, total) shards as they are looked at.

    Returns:
        The numbers of the shards that were captured again.

    Raises:
        InputError: Shards are damaged, and the recipe that they were captured by is not there.
    """
    store = store_folder(path)
    numbers = damaged(store, progress)
    if not numbers:
        rebuild(store)
        return []
    run = _run_of(store, numbers)
    recipe = load(run / RESOLVED_RECIPE).model_copy(update={"output_dir": str(run)})
    if missing_shards(store, need_settings(store)):
        remove_shards(store, numbers)
        raise InputError(
            f"{store}: shards {', '.join(map(str, numbers))} were damaged and are taken out, and the "
            "store is not finished; run `llmkd generate-teacher-data` as before, with its --shard if "
            "it is a share"
        )
    pipeline.unfinished_stages(Run(recipe))  # Refuses inputs that have changed.
    remove_shards(store, numbers)
    pipeline.generate_teacher_data(recipe, names=[store.parent.name])
    return numbers


def _run_of(store: Path, numbers: list[int]) -> Path:
    store = store.resolve()
    run = store.parent.parent.parent
    is_in_run = store.name == STORE and store.parent.parent.name == "stages"
    if not (is_in_run and (run / RESOLVED_RECIPE).is_file()):
        raise InputError(
            f"{store}: shards {', '.join(map(str, numbers))} are damaged, and the recipe of its run "
            "is not beside it; delete their files, put the store in its run's "
            "stages/NAME/store, and run `llmkd generate-teacher-data` with the recipe"
        )
    return run
