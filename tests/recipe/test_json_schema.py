import json
import random
from pathlib import Path

import jsonschema
import pytest

from llmkd.errors import InputError
from llmkd.recipe import load
from llmkd.recipe.json_schema import argument_schema, recipe_schema, trainer_schema
from llmkd.recipe.shipped import shipped_recipes
from llmkd.recipe.training_arguments import OWNED, Argument, training_arguments
from llmkd.recipe.yaml_places import read_file

ROOT = Path(__file__).parents[2]
TEXTS = Path(__file__).parent / "texts"
EVERY_RECIPE = [*shipped_recipes(), *sorted(TEXTS.glob("*.yaml"))]
ONE_STAGE = TEXTS / "one_stage.yaml"
VALUES = [
    3,
    -1,
    0,
    1.5,
    "text",
    "",
    None,
    True,
    [],
    {},
    [1],
    {"kind": "jsd"},
    {"kind": "task"},
    1e300,
]


@pytest.fixture(scope="module")
def refuses():
    """Whether the schema refuses a value."""
    validator = jsonschema.Draft202012Validator(recipe_schema())
    return lambda value: not validator.is_valid(value)


def test_it_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(recipe_schema())


def test_the_schema_beside_the_docs_is_this_one():
    written = (ROOT / "docs" / "recipe.schema.json").read_text()

    assert json.loads(written) == recipe_schema(), "write it anew: make docs"


@pytest.mark.parametrize("path", EVERY_RECIPE, ids=lambda path: path.stem)
def test_every_recipe_passes(path, refuses):
    assert not refuses(read_file(path).value)


def edited(path, *keys, value):
    data = read_file(path).value
    holder = data
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = value
    return data


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (["nme"], "a"), (["seed"], "3"), (["seed"], -1), (["name"], "a/b"), (["stages"], {}),
        (["kind"], "trian"), (["kind"], None), (["student", "kind"], "pretrained"),
        (["student", "confg"], {}), (["student"], "hub/model"), (["data", "digits"], 10),
        (["data", "kind"], "dataset"), (["data", "weight"], 1.0), (["losses"], []),
        (["losses", 0, "kind"], "forward"), (["losses", 0, "temperature"], 1.0),
        (["losses", 0, "weight"], -1), (["losses", 0, "weight"], {"start": 1, "end": 0}),
        (["trainer", "learning_rat"], 1e-3), (["trainer", "learning_rate"], "1e-3"),
        (["trainer", "learning_rate"], 0), (["trainer", "max_steps"], 0),
        (["trainer", "output_dir"], "runs"), (["trainer", "bf16"], 1), (["trainer"], []),
        (["trainer", "optim"], "adamw"), (["trainer", "adam_beta1"], 1), (["resume"], True),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused(keys, value, refuses):
    assert refuses(edited(ONE_STAGE, *keys, value=value))


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (["description"], "x"), (["losses", 0, "weight"], {"kind": "linear", "start": 1, "end": 0}),
        (["student"], {"model_name_or_path": "hub/model", "lora": {}}), (["seed"], 7),
        (["student"], {"kind": "pretrained", "model_name_or_path": "hub/model"}),
        (["data"], {"dataset_name": "hub/data", "columns": {"text": "body"}, "max_length": 9}),
        (["data"], {"kind": "mixture", "sources": [{"dataset_name": "a", "weight": 2.0},
                                                   {"kind": "task", "num_examples": 3}]}),
        (["trainer", "max_steps"], -1), (["trainer", "report_to"], ["wandb", "tensorboard"]),
        (["trainer", "save_total_limit"], None), (["trainer", "deepspeed"], {"zero": 2}),
    ],
)  # fmt: skip
def test_what_is_right_passes(keys, value, refuses):
    assert not refuses(edited(ONE_STAGE, *keys, value=value))


def places(value):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        yield value, key
        if isinstance(item, dict | list):
            yield from places(item)


def mutated(data, rng):
    holder, key = rng.choice(list(places(data)))
    action = rng.choice(["value", "misspell", "delete", "add"])
    if action == "value" or not isinstance(holder, dict):
        holder[key] = rng.choice(VALUES)
    elif action == "misspell":
        holder[f"{key}x"] = holder.pop(key)
    elif action == "delete":
        del holder[key]
    else:
        holder[rng.choice(["kind", "name", "weight", "seed", "stages", "student", "x"])] = (
            rng.choice(VALUES)
        )


@pytest.mark.parametrize("path", EVERY_RECIPE, ids=lambda path: path.stem)
def test_what_the_schema_refuses_the_loader_refuses_too(path, refuses, tmp_path):
    rng, edited_path, num_refused = random.Random(0), tmp_path / "edited.yaml", 0
    for _ in range(150):
        data = read_file(path).value
        for _ in range(rng.randrange(1, 3)):
            mutated(data, rng)
        if not refuses(data):
            continue
        num_refused += 1
        edited_path.write_text(json.dumps(data))
        with pytest.raises(InputError):
            load(edited_path)
    assert num_refused > 50


def test_every_argument_but_the_owned_ones_is_there():
    properties = trainer_schema()["properties"]

    assert properties.keys() == training_arguments().keys() - OWNED.keys()
    assert properties["learning_rate"]["type"] == "number"
    assert properties["learning_rate"]["default"] == 5e-5
    assert properties["save_total_limit"]["default"] == 2, "llmkd's, not transformers'"
    assert "cosine" in properties["lr_scheduler_type"]["enum"]


def test_an_argument_of_words_or_null_takes_both():
    schema = argument_schema("a", Argument(("str", "None"), ("x", "y")))

    assert schema == {"anyOf": [{"enum": ["x", "y"]}, {"type": ["null"]}]}


def test_fields_have_descriptions_and_defaults():
    parts = recipe_schema()["$defs"]

    assert parts["DatasetSource"]["properties"]["max_length"]["default"] == 1024
    assert "\n" not in parts["LoraConfig"]["properties"]["r"]["description"]
    assert "description" in parts["TrainStage"]
    assert parts["PromptRows"]["required"] == ["dataset_name"], "kind has a default"
