"""A prune stage: a model is read, measured, cut and written.

STAGE/model/        the pruned model
STAGE/pruning.json  importance, what was cut, and sizes; its presence says that all is done
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmkd.errors import InputError
from llmkd.models.save import save_model
from llmkd.progress import Progress
from llmkd.progress import progress as data_progress
from llmkd.pruning.calibration import read_calibration
from llmkd.pruning.choose import choose
from llmkd.pruning.fields import size_problems
from llmkd.pruning.importance import Importances, measure_importances
from llmkd.pruning.record import PRUNING, measured, removed, sizes_in
from llmkd.pruning.surgery import check_prunable, cut
from llmkd.recipe.pruning import PruneStage
from llmkd.recipe.yaml_places import dotted
from llmkd.run_folder import write_atomically
from llmkd.teacher_data.transformers_engine import load_for_inference
from llmkd.training.model_card import pruned_card

Item = TypeVar("Item")


def run_prune(stage: PruneStage, folder: Path, *, name: str, seed: int, progress: Progress) -> None:
    """Prunes the stage's model and writes `model/` and `pruning.json`.

    Args:
        stage: Its references to other stages are already paths.
        folder: The stage's folder; made where it is missing.
        name: The stage's name, for the model card.
        seed: The run's; decides which rows calibrate.
        progress: Called with (done, total) batches of the calibration set.

    Raises:
        InputError: The model cannot be pruned like that, or data cannot be used.
    """
    model, tokenizer = load_for_inference(stage.model)
    check_prunable(model)
    if problems := list(size_problems(model.config.to_dict(), stage)):
        raise InputError([f"{dotted(key)}: {message}" for key, message in problems])
    before, importances, record = sizes_in(model.config), None, {"model": stage.model.name}
    if stage.data is not None:
        importances, num_truncated = measure(stage, model, tokenizer, seed, progress)
        record |= {**measured(importances), "num_truncated": num_truncated}
    cuts = choose(stage.depth, stage.width, importances)
    cut(model, cuts)
    after = sizes_in(model.config)
    record |= {**removed(cuts, importances), "before": before, "after": after}
    save_model(model, tokenizer, pruned_card(stage, name, before, after), folder)
    write_atomically(folder / PRUNING, json.dumps(record, indent=1) + "\n")


def measure(
    stage: PruneStage,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    progress: Progress,
) -> tuple[Importances, int]:
    """The importances on the stage's calibration set, and how many of its rows were cut.

    Raises:
        InputError: The data cannot be used, or the model overflows on it.
    """
    with data_progress("data") as moved:
        found = read_calibration(stage, model, tokenizer, seed=seed, progress=moved)
    importances = measure_importances(model, _counted(found.batches, progress))
    if not importances.is_finite:
        raise InputError(
            f"model.dtype: hidden states overflow {model.dtype} on the calibration set; write "
            "model.dtype: float32"
        )
    return importances, found.num_truncated


def _counted(items: list[Item], progress: Progress) -> Iterator[Item]:
    for number, item in enumerate(items, 1):
        yield item
        progress(number, len(items))
