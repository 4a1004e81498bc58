"""What to say where a model cannot be loaded, or may not: code of its own or of the hub, and pickles."""

import os
import pickle
from pathlib import Path

from safetensors import SafetensorError
from transformers import PretrainedConfig
from transformers.utils.hub import cached_file

from llmkd.errors import InputError
from llmkd.models.adapter_configs import CONFIG
from llmkd.recipe.models import NamedModel, PretrainedModel

LOAD_ERRORS = (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError)
"""What transformers raises where nothing loadable is, or weights of other sizes than it says."""
ADAPTER = "adapter_model.safetensors"

# Else transformers asks a service of the hub to convert pickled weights, and loads what that proposes.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


def not_loadable(what: str, name: str, error: Exception) -> InputError:
    """What to say where nothing could be loaded.

    Args:
        what: A model, a tokenizer, a classifier.
        name: Its folder or hub name.
        error: What transformers raised.
    """
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "trust_remote_code" in str(error):
        return InputError(
            f"{name}: its {what} needs Python code that comes with it, and a model's code may do "
            "whatever you may; take a model that transformers knows, or read that code and write "
            "trust_remote_code: true where a recipe names the model, and --allow-code"
        )
    if isinstance(error, pickle.UnpicklingError):
        return InputError(
            f"{name}: its pickled weights hold more than tensors, which may be code, so nothing was "
            "loaded; write another model, or one with .safetensors files"
        )
    if "cannot be loaded with `safetensors`" in reason:  # Of the hub.
        return _pickled(name, "its weights are")
    return InputError(
        f"{name}: no {what} could be loaded ({reason}); write a folder that save_pretrained made, "
        "or a hub name that this machine can reach"
    )


def refuse_kernel(source: NamedModel, config: PretrainedConfig) -> None:
    """Refuses a configuration that has attention computed by a repository of the hub.

    Such a kernel is a program. That its publisher has the hub's trust says little of a commit, which
    may be one that a stranger only proposed there.

    Raises:
        InputError: There is such a name, no other is asked for, and the model's code is not trusted.
    """
    is_asked = getattr(source, "attn_implementation", None) is not None
    if (kernel := kernel_named(config)) and not (is_asked or source.trust_remote_code):
        raise InputError(
            f"{source.model_name_or_path}: its configuration has attention computed by {kernel}, a "
            "program of the hub; write attn_implementation: sdpa where a recipe names the model, or "
            "read that code and write trust_remote_code: true, and --allow-code"
        )


def kernel_named(config: PretrainedConfig) -> str | None:
    """The repository by which a configuration, or one within it, has attention computed, if any."""
    parts = [config, *(getattr(config, name, None) for name in config.sub_configs)]
    named = (getattr(part, "_attn_implementation", None) for part in parts)
    return next((name for name in named if isinstance(name, str) and "/" in name), None)


def refuse_pickles(source: PretrainedModel) -> None:
    """Refuses pickled weights that can be seen before loading: an adapter's, and those in a folder.

    Of adapters, neither transformers nor peft would refuse them.

    Raises:
        InputError: The model's weights are such, its adapter's, or those of one in its own folder.
    """
    if source.use_safetensors:
        if _has_only_pickles(Path(source.model_name_or_path)):
            raise _pickled(source.model_name_or_path, "its weights are")
        # An adapter that is named is loaded from its main branch: the revision is the model's.
        named = [(source.model_name_or_path, source.revision), (source.adapter_name_or_path, None)]
        for name, revision in named:
            if name and _has(name, revision, CONFIG) and not _has(name, revision, ADAPTER):
                raise _pickled(name, "the adapter is")


def _pickled(name: str, what: str) -> InputError:
    return InputError(
        f"{name}: {what} not in safetensors files; take one with .safetensors files, or write "
        "use_safetensors: false beside model_name_or_path in a recipe: then tensors alone are read"
    )


def _has_only_pickles(folder: Path) -> bool:
    """Whether pickled weights are in a folder, and no others."""
    return any(folder.glob("pytorch_model*.bin*")) and not any(folder.glob("model*.safetensors"))


def _has(name: str, revision: str | None, file: str) -> bool:
    """Whether a folder or a revision of a hub repository has a file."""
    found = cached_file(
        name,
        file,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return found is not None
