"""The fields of transformers' configurations and their defaults, from their source."""

import ast
import functools
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmkd.check.facts import NotKnownError
from llmkd.recipe.places import nearest

# Fields that are read or set without being declared; the first four as in llmkd.models.load.
UNDECLARED = (
    "rope_theta", "rope_scaling", "head_dim", "decoder_start_token_id", "_name_or_path",
    "output_attentions",
)  # fmt: skip


@dataclass(frozen=True)
class ConfigFields:
    """What one class of configuration declares."""

    defaults: Mapping[str, Any]
    """Field to default; None where the source does not say it as a plain value."""
    other_names: Mapping[str, str]
    """Common names of fields that the class calls otherwise."""


def with_defaults(model_type: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with its class's defaults, under the class's own names."""
    fields = _fields(f"models/{model_type}/configuration_{model_type}.py", "")
    written = {fields.other_names.get(name, name): value for name, value in config.items()}
    return {**fields.defaults, **written}


def unknown_fields(model_type: str, config: Mapping[str, Any]) -> dict[str, str]:
    """Each field that no such configuration has, and what to write instead.

    A configuration keeps whatever it is given, so a misspelt size would silently be the default.
    """
    own = _fields(f"models/{model_type}/configuration_{model_type}.py", "")
    common = _fields("configuration_utils.py", "PreTrainedConfig")
    known = {*own.defaults, *own.other_names, *common.defaults, *UNDECLARED}
    return {
        name: f"did you mean `{near}`?"
        if (near := nearest(name, sorted(known)))
        else "leave it out"
        for name in config
        if name not in known
    }


@functools.cache
def _fields(file: str, class_name: str) -> ConfigFields:
    """Those of one class in a file of transformers, or of all classes there."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        raise NotKnownError("transformers is not installed; run pip install llmkd again")
    tree = ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    defaults: dict[str, Any] = {}
    other_names: dict[str, str] = {}
    for node in classes if not class_name else [n for n in classes if n.name == class_name]:
        for statement in node.body:
            match statement:
                case ast.AnnAssign(target=ast.Name(id=name)):
                    defaults[name] = _literal(statement.value)
                case ast.Assign(targets=[ast.Name(id="attribute_map")], value=value):
                    other_names = _literal(value) or {}
    return ConfigFields(defaults, other_names)


def _literal(value: ast.expr | None) -> Any:
    try:
        return None if value is None else ast.literal_eval(value)
    except ValueError:
        return None
