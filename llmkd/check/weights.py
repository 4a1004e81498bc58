"""The tensors of a local model, from the headers of its safetensors files.

References:
    https://huggingface.co/docs/safetensors/index#format: 8 bytes of length, then JSON, then data.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmkd.check.facts import NotKnownError
from llmkd.recipe.local_paths import expanded

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LARGEST_JSON_BYTES = 32 * 2**20
MOST_SHARDS = 1000
FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}

Shapes = dict[str, tuple[str, list[int]]]
"""Tensor name to (safetensors dtype, shape)."""

BUFFERS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", "final_logits_bias")
"""Ends of names that files hold beside the parameters."""


@dataclass(frozen=True)
class Weights:
    """What a local model's files say."""

    num_parameters: int
    bytes_per_parameter: int
    """Of the type that most of them have in the files."""
    num_embeddings: int | None
    """Rows of the output head, or of the embedding where the two are tied."""


def model_folder(name: str, revision: str | None) -> Path:
    """The folder of a model: itself, or the hub's cache.

    Raises:
        NotKnownError: It is not on this machine.
    """
    folder = expanded(name)
    try:
        if folder.is_dir():
            return folder
        home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
        hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
        cached = hub / f"models--{name.replace('/', '--')}"
        branch = cached / "refs" / (revision or "main")
        commit = branch.read_text().strip() if branch.is_file() else revision
        if commit and (cached / "snapshots" / commit).is_dir():
            return cached / "snapshots" / commit
    except (OSError, ValueError, RuntimeError) as error:
        raise NotKnownError(f"{name}: cannot be looked at ({error})") from error
    raise NotKnownError(f"{name} is not on this machine; `hf download {name}` fetches it")


def read_weights(folder: Path, config: dict[str, Any]) -> Weights:
    """Counts what is in a model folder.

    Raises:
        NotKnownError: There are no whole safetensors files, or the weights are quantized.
    """
    if "quantization_config" in config:
        raise NotKnownError(f"{folder}: quantized; the run itself will tell")
    shapes = {
        name: value for name, value in shapes_in(folder).items() if not is_buffer(name, value[1])
    }
    head, embedding = (
        _rows(shapes, "lm_head.weight"),
        _rows(shapes, "embed_tokens.weight", "wte.weight", "shared.weight"),
    )
    if config.get("tie_word_embeddings") and head is not None and embedding is not None:
        shapes = {name: value for name, value in shapes.items() if name != "lm_head.weight"}
    sizes: dict[str, int] = {}
    for dtype, shape in shapes.values():
        if dtype not in FLOAT_BYTES:
            raise NotKnownError(
                f"{folder}: holds numbers of type {dtype}; the run itself will tell"
            )
        sizes[dtype] = sizes.get(dtype, 0) + math.prod(shape)
    if not sizes:
        raise NotKnownError(f"{folder}: its safetensors files hold no tensors; copy them anew")
    most = max(sizes, key=lambda dtype: sizes[dtype])
    return Weights(sum(sizes.values()), FLOAT_BYTES[most], embedding if head is None else head)


def read_json(path: Path) -> Any:
    """What a JSON file of a model folder holds.

    Raises:
        NotKnownError: It is missing, no JSON, or not of a size that such files have.
    """
    try:
        if path.stat().st_size > LARGEST_JSON_BYTES:
            raise NotKnownError(f"{path}: larger than 32 MiB, which no such file is")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise NotKnownError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise NotKnownError(f"{path}: no JSON; copy the model anew") from error


def shapes_in(folder: Path) -> Shapes:
    """The tensors of a model folder.

    Raises:
        NotKnownError: There are no whole safetensors files.
    """
    if (folder / WHOLE).is_file():
        return header_of(folder / WHOLE)
    if not (folder / INDEX).is_file():
        raise NotKnownError(f"{folder}: no {WHOLE}; the run itself will tell")
    index = read_json(folder / INDEX)
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise NotKnownError(f"{folder / INDEX}: no index of weights; copy the model anew")
    files = sorted(set(names.values()))
    if len(files) > MOST_SHARDS:
        raise NotKnownError(f"{folder / INDEX}: names {len(files)} files; the run itself will tell")
    shapes: Shapes = {}
    for name in files:
        shapes |= header_of(folder / Path(name).name)
    return shapes


def header_of(path: Path) -> Shapes:
    """The tensors of a safetensors file.

    Raises:
        NotKnownError: It is missing, or none.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > LARGEST_JSON_BYTES:
                raise NotKnownError(f"{path}: no safetensors file; copy the model anew")
            content = file.read(length)
    except OSError as error:
        raise NotKnownError(f"{path}: {error.strerror}") from error
    try:
        header = json.loads(content)
        return {
            name: (str(tensor["dtype"]), [_size(size) for size in tensor["shape"]])
            for name, tensor in header.items()
            if name != "__metadata__"
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise NotKnownError(f"{path}: no whole safetensors header; copy the model anew") from error


def _size(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(value)
    return value


def is_buffer(name: str, shape: list[int]) -> bool:
    """Whether a tensor of a checkpoint is none of the parameters; models make it anew."""
    # `attn.bias` is GPT-2's causal mask where it has four dimensions, and a bias otherwise.
    return name.endswith(BUFFERS) and (name.endswith("inv_freq") or len(shape) != 1)


def _rows(shapes: Shapes, *ends: str) -> int | None:
    for name, (_, shape) in shapes.items():
        if name.endswith(ends) and len(shape) == 2:
            return shape[0]
    return None
