"""Safetensors files, written one tensor at a time.

References:
    https://huggingface.co/docs/safetensors/index#format: 8 bytes of length, then JSON, then data.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from llmkd.check.weights import INDEX, WHOLE
from llmkd.merging.checkpoint import TYPES, Header


def write_tensors(
    folder: Path,
    headers: Mapping[str, Header],
    made: Callable[[str], Tensor],
    *,
    max_shard_bytes: int,
) -> None:
    """Writes a model's weights, in one file or in several with an index.

    A file begins with the places of all its tensors, which follow from their types and shapes; so each
    tensor is made when its place comes and is gone after it.

    Args:
        folder: Where to.
        headers: Type and shape of each tensor, by name.
        made: Gives a tensor by its name.
        max_shard_bytes: Of tensors in one file; one that is larger has its own.
    """
    # The widest types first, so that every tensor is aligned.
    names = sorted(headers, key=lambda name: (-TYPES[headers[name].dtype].itemsize, name))
    shards = _shards({name: num_bytes(headers[name]) for name in names}, max_shard_bytes)
    if len(shards) == 1:
        _write_file(folder / WHOLE, shards[0], headers, made)
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_file(folder / file, shard, headers, made)
        places |= dict.fromkeys(shard, file)
    total = sum(map(num_bytes, headers.values()))
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def num_bytes(header: Header) -> int:
    """What a tensor takes in its file."""
    return math.prod(header.shape) * TYPES[header.dtype].itemsize


def _shards(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """The names in order, cut before the one that would be too much."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > most:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _write_file(
    path: Path, names: list[str], headers: Mapping[str, Header], made: Callable[[str], Tensor]
) -> None:
    content: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        header, start = headers[name], end
        end += num_bytes(header)
        content[name] = {"dtype": header.dtype, "shape": header.shape, "data_offsets": [start, end]}
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            # Under no name, which would hold it while the next one is made.
            file.write(_bytes(made(name)))


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
