"""Merging: tensor by tensor from the models' files into a new model folder.

At any moment one tensor of each model is in memory, in float32, and their sum; files in half precision
are read into a tensor of half that size first, and so is the sum before it is written. Neither the
number of tensors nor the size of files matters.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmkd.errors import InputError
from llmkd.merging.checkpoint import INTEGERS, TYPES, Checkpoint, copied_files, open_checkpoint
from llmkd.merging.distances import Cosines
from llmkd.merging.files import write_tensors
from llmkd.merging.fit import fitted
from llmkd.merging.methods import coefficients, cosine, is_on_one_line, weighted_sum
from llmkd.models.finite import is_finite
from llmkd.progress import Progress
from llmkd.recipe.merging import MergeStage, Slerp
from llmkd.training.checkpoints import publish, removed_on_failure
from llmkd.training.model_card import card

MANIFEST = "merge.json"
"""In the model's folder: what was merged and how far the models are apart."""


@dataclass
class Merge:
    """One merge under way.

    Args:
        stage: Says how.
        models: Those that are read, the base first.
    """

    stage: MergeStage
    models: Sequence[Checkpoint]
    cosines: Cosines = field(init=False)
    num_on_one_line: int = 0

    def __post_init__(self):
        self.cosines = Cosines([model.key for model in self.models[1:]])

    def tensor(self, name: str) -> Tensor:
        """One tensor of the merged model, in the first model's type.

        Raises:
            InputError: A weight of a model, or of the result, is not finite.
        """
        dtype = self.models[0].headers[name].dtype
        tensors = [model.read(name) for model in self.models]
        if dtype in INTEGERS:
            return self._same(name, tensors)
        found = [cosine(tensors[0], other) for other in tensors[1:]]
        self.cosines.add(name, found)
        self.num_on_one_line += is_on_one_line(found[0])
        weights = coefficients(self.stage.method, len(tensors), found[0])
        merged = weighted_sum(tensors, weights).to(TYPES[dtype])
        if not is_finite(merged):
            raise InputError(
                f"method: with these weights, numbers of {name} are too large for {dtype}; write "
                "smaller weights"
            )
        return merged

    def manifest(self) -> dict[str, Any]:
        """What to keep of it, as plain data."""
        method = self.stage.method
        is_slerp = isinstance(method, Slerp)
        return {
            "method": method.model_dump(mode="json"),
            "models": {model.key: model.name for model in self.models},
            "num_tensors": len(self.models[0].headers),
            **({"num_interpolated_linearly": self.num_on_one_line} if is_slerp else {}),
            "cosines": self.cosines.summary(),
        }

    def _same(self, name: str, tensors: Sequence[Tensor]) -> Tensor:
        for model, tensor in zip(self.models, tensors, strict=True):
            if not torch.equal(tensor, tensors[0]):
                raise InputError(
                    f"{model.key}: {model.name}: {name} holds whole numbers, which cannot be averaged, "
                    "and others than the first model's; merge models of one shape"
                )
        return tensors[0]


def opened(stage: MergeStage) -> Merge:
    """The stage's models, looked at and held against each other; no tensor is read yet.

    Raises:
        InputError: They cannot be merged.
    """
    problems = [f"{'.'.join(map(str, key))}: {text}" for key, text in stage.problems()]
    if problems:
        raise InputError(problems)
    models = [open_checkpoint(key, name) for key, name in stage.inputs.items()]
    return Merge(stage, fitted(models))


def merge(stage: MergeStage, output: Path, *, name: str, progress: Progress) -> dict[str, Any]:
    """Merges models into a folder, which appears whole or not at all.

    Args:
        stage: Its references to other stages are already paths.
        output: The model folder; an older one is replaced.
        name: Of the result, for its model card.
        progress: Called with (tensors done, tensors in all).

    Returns:
        What `merge.json` says.

    Raises:
        InputError: The models cannot be merged.
    """
    work = opened(stage)
    first = work.models[0]
    staged = output.with_name(f".{output.name}.staging")
    shutil.rmtree(staged, ignore_errors=True)  # Of an attempt that was killed.
    staged.mkdir(parents=True)
    num_done = 0

    def made(tensor: str) -> Tensor:
        nonlocal num_done
        merged = work.tensor(tensor)
        num_done += 1
        progress(num_done, len(first.headers))
        return merged

    with removed_on_failure(staged):
        for path in copied_files(first.folder):
            shutil.copyfile(path, staged / path.name)
        write_tensors(staged, first.headers, made, max_shard_bytes=stage.max_shard_bytes)
        manifest = work.manifest()
        (staged / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        (staged / "README.md").write_text(card(stage, name, _summary(work)))
        publish(staged, output)
    return manifest


def _summary(work: Merge) -> str:
    """One sentence for the model card."""
    names = ", ".join(f"`{model.name}`" for model in work.models)
    return f"Merged from {names} by {work.stage.method.kind}, made with llmkd."
