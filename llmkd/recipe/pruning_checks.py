"""Checks across the fields of a prune stage."""

from collections.abc import Iterator

from llmkd.recipe.data import Classification, SequenceLengths, Sequences
from llmkd.recipe.places import Problem
from llmkd.recipe.pruning import PruneStage
from llmkd.recipe.rationale import StepByStep
from llmkd.recipe.yaml_places import Key


def pruning_problems(stage: PruneStage, key: Key) -> Iterator[Problem]:
    """What is wrong with a prune stage, as far as it tells by itself."""
    if stage.depth is None and stage.width is None:
        yield Problem(
            key,
            "leaves nothing out; write `depth: {remove_layers: ...}`, or `width: {intermediate_size: "
            "...}`, or both",
        )
    for field, message in _depth_problems(stage):
        yield Problem((*key, "depth", field), message)
    width = stage.width
    if width is not None and width.intermediate_size is width.num_key_value_heads is None:
        message = "cuts nothing; write `intermediate_size`, `num_key_value_heads`, or both"
        yield Problem((*key, "width"), message)
    for field, message in _data_problems(stage):
        yield Problem((*key, *field), message)


def _depth_problems(stage: PruneStage) -> Iterator[tuple[str, str]]:
    depth = stage.depth
    if depth is None:
        return
    if (depth.remove_layers is None) == (depth.layers is None):
        yield (
            "remove_layers",
            "write either `remove_layers`, how many go by their importance, or `layers`, which go",
        )
    if depth.layers is not None and len(set(depth.layers)) < len(depth.layers):
        yield "layers", "names a layer twice; write each once"


def _data_problems(stage: PruneStage) -> Iterator[tuple[Key, str]]:
    data = stage.data
    if data is None and stage.needs_calibration:
        yield (
            ("data",),
            "importance is measured on a calibration set, and there is none; write `data: "
            "{dataset_name: ...}`, or only `depth.layers`",
        )
    if isinstance(data, Classification):
        yield (
            ("data",),
            "labelled rows are for classifiers, and a language model is pruned; write rows of `text`, "
            "or of `prompt` and `completion`",
        )
    if isinstance(data, SequenceLengths) and data.streaming:
        yield (
            ("data", "streaming"),
            "a stream has no end, so it cannot be told whether it has enough rows; write streaming: "
            "false, and num_examples in `data` to read its first rows only",
        )
    if isinstance(data, SequenceLengths) and data.packing:
        yield ("data", "packing"), "rows are read one by one to calibrate; leave it out"
    if isinstance(data, Sequences) and isinstance(data.rationale, StepByStep):
        yield (
            ("data", "rationale", "kind"),
            "two tasks a row are for training; write kind: chain_of_thought, or leave rationale out",
        )
