"""The recipe as a JSON schema, from which an editor completes and checks while one writes.

It refuses nothing that the loader takes. The loader refuses more: references that lead nowhere, what
does not fit across fields, 1.0 for an integer.
"""

from collections.abc import Mapping
from typing import Any

from llmkd.recipe.schema import (
    CurateStage,
    EvaluateStage,
    GenerateStage,
    MergeStage,
    PruneStage,
    Recipe,
    ScoreStage,
    TrainStage,
)
from llmkd.recipe.training_arguments import DEFAULTS, OWNED, Argument, limits, training_arguments

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TRAINER = "Trainer"

_TYPES = {
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "str": "string",
    "None": "null",
    "list": "array",
    "dict": "object",
}

STAGE_MODELS = (
    TrainStage, GenerateStage, ScoreStage, CurateStage, PruneStage, MergeStage, EvaluateStage,
)  # fmt: skip

Schema = dict[str, Any]


def recipe_schema() -> Schema:
    """A recipe with `stages`, or with the keys of its one stage at the top."""
    whole: Schema = _tidied(Recipe.model_json_schema())
    parts: dict[str, Schema] = whole.pop("$defs")
    parts[TRAINER] = trainer_schema()
    trainer = parts["TrainStage"]["properties"]["trainer"]
    for keyword in ("additionalProperties", "type"):
        trainer.pop(keyword, None)
    trainer["$ref"] = f"#/$defs/{TRAINER}"
    one_stage: list[Schema] = []
    for model in STAGE_MODELS:
        name = f"One{model.__name__}"
        parts[name] = _one_stage(whole, parts[model.__name__])
        one_stage.append({"$ref": f"#/$defs/{name}"})
    parts["Recipe"] = whole
    return {
        "$schema": DIALECT,
        "title": "llmkd recipe",
        "type": "object",
        "if": {"required": ["stages"]},
        "then": {"$ref": "#/$defs/Recipe"},
        "else": {"oneOf": one_stage},
        "$defs": dict(sorted(parts.items())),
    }


def trainer_schema() -> Schema:
    """The `trainer` block: every training argument but those that llmkd owns."""
    arguments = training_arguments()
    return {
        "title": TRAINER,
        "description": "`transformers.TrainingArguments` names, as they are.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            name: argument_schema(name, argument)
            for name, argument in arguments.items()
            if name not in OWNED
        },
    }


def argument_schema(name: str, argument: Argument) -> Schema:
    """One training argument: its types or words, its range, and its default in llmkd."""
    types = [_TYPES[kind] for kind in argument.types]
    schema: Schema = {}
    if argument.choices:
        others = [kind for kind in types if kind != "string"]
        words: Schema = {"enum": list(argument.choices)}
        schema |= {"anyOf": [words, {"type": others}]} if others else words
    elif types:
        schema["type"] = types[0] if len(types) == 1 else types
    schema |= limits(name)
    default = DEFAULTS.get(name, argument.default)
    if default is not None:
        schema["default"] = default
    if argument.help:
        schema["description"] = argument.help
    return schema


def _one_stage(recipe: Schema, stage: Schema) -> Schema:
    """A recipe that holds the keys of its one stage itself."""
    top = {name: value for name, value in recipe["properties"].items() if name != "stages"}
    required = [name for name in recipe["required"] if name != "stages"]
    return {
        "title": f"Recipe of one {stage['title']}",
        "description": stage["description"],
        "type": "object",
        "additionalProperties": False,
        "properties": {**top, **stage["properties"]},
        "required": [*required, *stage["required"]],
    }


def _tidied(schema: Any) -> Any:
    """Descriptions without the source's line breaks; no keywords of other dialects."""
    if isinstance(schema, list):
        return [_tidied(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    tidied = {key: _tidied(value) for key, value in schema.items()}
    if isinstance(tidied.get("discriminator"), dict):
        del tidied["discriminator"]
    description = tidied.get("description")
    if isinstance(description, str):
        paragraphs = (" ".join(part.split()) for part in description.split("\n\n"))
        tidied["description"] = "\n\n".join(paragraphs)
    return tidied
