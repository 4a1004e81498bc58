"""A model's safetensors files, read one tensor at a time."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llmkd.check.weights import INDEX, WHOLE, is_buffer
from llmkd.errors import InputError
from llmkd.merging.adapter import Adapter
from llmkd.models.adapter_configs import CONFIG as ADAPTER_CONFIG
from llmkd.models.finite import is_finite
from llmkd.models.refusals import not_loadable
from llmkd.pruning.record import PRUNING

COPIED = ("*.json", "*.jinja", "*.model", "*.txt")
"""The files of a model folder beside its weights: configuration, tokenizer, templates."""
NOT_COPIED = ("*.index.json", PRUNING)
"""Where the first model's own weights are, and how it was made, which is not true of what it becomes."""
FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
INTEGERS = {
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
TYPES = FLOATS | INTEGERS


@dataclass(frozen=True)
class Header:
    """What a file says of one tensor before it is read."""

    file: Path
    dtype: str
    """As safetensors names it."""
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A model whose tensors are on the disk.

    Args:
        key: Where a recipe names it, such as `models.0`.
        name: Its folder or hub name, as the user wrote it.
        folder: Where configuration and tokenizer are.
        headers: Of its tensors.
        adapter: What is added to them as they are read.
    """

    key: str
    name: str
    folder: Path
    headers: Mapping[str, Header]
    adapter: Adapter | None = None

    def read(self, name: str) -> Tensor:
        """A tensor: whole numbers as they are, others in float32, or float64 where they have it.

        Raises:
            InputError: It holds NaN or an infinite number.
        """
        header = self.headers[name]
        # Opened anew for each tensor: pages of a file that stays mapped count as memory in use.
        with safe_open(header.file, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        if header.dtype in INTEGERS:
            return tensor
        wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        whole = wide if self.adapter is None else self.adapter.added(name, wide)
        if not is_finite(whole):
            raise InputError(
                f"{self.key}: {self.name}: {name} holds NaN or an infinite number; name another "
                "model, or a checkpoint from before its training went wrong"
            )
        return whole

    def without(self, names: Collection[str]) -> "Checkpoint":
        """The same model as if these tensors were not in its files."""
        left = {name: header for name, header in self.headers.items() if name not in names}
        return replace(self, headers=left)


def open_checkpoint(key: str, name: str) -> Checkpoint:
    """Finds a model's files and reads what they hold, but no tensor.

    Args:
        key: Where a recipe names it.
        name: A folder or a hub name: of a model, or of a LoRA adapter, whose model is opened too.

    Raises:
        InputError: There is none, it is no safetensors checkpoint, or its weights are quantized.
    """
    folder = _folder(name)
    if not (folder / ADAPTER_CONFIG).is_file():
        headers = dict(_headers(key, name, folder))
        return Checkpoint(key, name, folder, headers)
    adapter = Adapter(f"{key}: {name}", folder)
    base_folder = _folder(adapter.base)
    if (base_folder / ADAPTER_CONFIG).is_file():
        raise InputError(
            f"{key}: {name}: adapts {adapter.base}, which is an adapter itself; merge that into its "
            "model first"
        )
    base = open_checkpoint(key, str(base_folder))
    adapter.check_fits({name: header.shape for name, header in base.headers.items()})
    return replace(base, name=name, adapter=adapter)


def copied_files(folder: Path) -> list[Path]:
    """Configuration, tokenizer and templates of a model folder."""
    found = {path for pattern in COPIED for path in folder.glob(pattern)}
    return sorted(path for path in found if not any(map(path.match, NOT_COPIED)))


def _folder(name: str) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", *COPIED]))
    except (OSError, ValueError) as error:
        raise not_loadable("model", name, error) from error


def _headers(key: str, name: str, folder: Path) -> Iterator[tuple[str, Header]]:
    for file in _files(key, name, folder):
        try:
            with safe_open(file, framework="pt") as opened:
                for tensor in opened.keys():  # noqa: SIM118 - no mapping.
                    part = opened.get_slice(tensor)
                    header = Header(file, part.get_dtype(), tuple(part.get_shape()))
                    _refuse_quantized(key, name, tensor, header.dtype)
                    if not is_buffer(tensor, list(header.shape)):
                        yield tensor, header
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{key}: {file}: no whole safetensors file ({error}); copy the model anew"
            ) from error


def _files(key: str, name: str, folder: Path) -> list[Path]:
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if (folder / INDEX).is_file():
        return [folder / Path(file).name for file in _indexed(key, folder / INDEX)]
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        raise InputError(
            f"{key}: {name}: holds pickled weights only, which may run code and cannot be read tensor "
            f"by tensor; write it anew with transformers: AutoModelForCausalLM.from_pretrained({name!r})"
            ".save_pretrained(FOLDER)"
        )
    raise InputError(
        f"{key}: {name}: no {WHOLE} nor {INDEX} there; write a folder that save_pretrained made"
    )


def _indexed(key: str, path: Path) -> list[str]:
    try:
        return sorted(set(json.loads(path.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{key}: {path}: no index of weights; copy the model anew") from error


def _refuse_quantized(key: str, name: str, tensor: str, dtype: str) -> None:
    if dtype not in TYPES:
        raise InputError(
            f"{key}: {name}: {tensor} is of type {dtype}, which cannot be averaged; write the model "
            "in bfloat16, float16 or float32"
        )
