"""What `llmkd prune --report` measures: a model is read, and its layers bypassed."""

from typing import Any

from transformers import PreTrainedModel

from llmkd.errors import InputError
from llmkd.options import naming_options
from llmkd.progress import progress
from llmkd.pruning.calibration import batched, drawn_rows
from llmkd.pruning.fields import most_removable, size_problems
from llmkd.pruning.record import measured
from llmkd.pruning.run import measure
from llmkd.pruning.surgery import check_prunable
from llmkd.pruning.survey import HeldOut, survey
from llmkd.recipe.data import DatasetSource
from llmkd.recipe.pruning import PruneStage
from llmkd.recipe.yaml_places import dotted
from llmkd.teacher_data.transformers_engine import load_for_inference

OF_HELD_OUT = {"data.dataset_name": "--held-out", "data.dataset_split": "--held-out"}


def run_survey(
    stage: PruneStage,
    *,
    held_out: str | None,
    num_held_out: int,
    most: int | None,
    seed: int,
) -> dict[str, Any]:
    """Measures importance, and perplexity without 0, 1, ... layers.

    Args:
        stage: With `data` and `depth`; which layers it removes has no say.
        held_out: The data set that perplexity is measured on; None takes other rows of the stage's.
        num_held_out: Rows of it.
        most: Layers to leave out at most; None takes all but those that are protected.
        seed: Decides which rows are drawn, and the intervals.

    Raises:
        InputError: The model has no such layers, or the data fewer rows.
    """
    model, tokenizer = load_for_inference(stage.model)
    check_prunable(model)
    most = _most(model, stage, most)
    with progress("importance") as moved:
        importances, _ = measure(stage, model, tokenizer, seed, moved)
    other = _of_held_out(stage, held_out, num_held_out)
    is_same = held_out in (None, getattr(stage.data, "dataset_name", None))
    skipped = stage.num_examples if is_same else 0
    where = {} if held_out is None else OF_HELD_OUT
    with naming_options(where), progress("held-out rows") as moved:
        rows = drawn_rows(other, model, tokenizer, seed=seed, progress=moved, num_skipped=skipped)
    if len(rows) < num_held_out:
        instead = f"write --num-held-out {len(rows)}" if rows else "write --num-examples with fewer"
        raise InputError(
            f"--num-held-out: {num_held_out} rows are asked for, and {len(rows)} are there besides "
            f"{skipped} to calibrate on; {instead}, or --held-out with more rows"
        )
    found = HeldOut.of(batched(rows, tokenizer, stage.batch_size))
    assert stage.depth is not None
    with progress("perplexity") as moved:
        sizes = survey(model, importances, found, stage.depth, most=most, seed=seed, progress=moved)
    return {
        "model": stage.model.name,
        "seed": seed,
        "protect_first": stage.depth.protect_first,
        "protect_last": stage.depth.protect_last,
        **measured(importances),
        "num_held_out": len(rows),
        "num_held_out_tokens": sum(found.counts),
        "sizes": sizes,
    }


def _most(model: PreTrainedModel, stage: PruneStage, most: int | None) -> int:
    config = model.config.to_dict()
    if most is not None and (problems := list(size_problems(config, stage))):
        raise InputError([f"{dotted(key)}: {message}" for key, message in problems])
    assert stage.depth is not None
    possible = most_removable(config["num_hidden_layers"], stage.depth)
    if possible < 1:
        raise InputError(
            f"--protect-first, --protect-last: of {config['num_hidden_layers']} layers none is left to "
            "go; protect fewer"
        )
    return possible if most is None else most


def _of_held_out(stage: PruneStage, name: str | None, num_rows: int) -> PruneStage:
    update: dict[str, Any] = {"num_examples": num_rows}
    if name is not None:
        assert isinstance(stage.data, DatasetSource)
        update["data"] = stage.data.model_copy(update={"dataset_name": name})
    return stage.model_copy(update=update)
