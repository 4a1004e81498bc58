"""What a prune stage is refused for when its recipe is loaded."""

import pytest

from llmkd.errors import InputError
from llmkd.recipe.load import checked_recipe

TEACHER = {
    "kind": "train",
    "student": {"kind": "scratch", "config": {"model_type": "llama"}},
    "data": {"kind": "task", "digits": 2, "num_examples": 9},
    "losses": [{"kind": "cross_entropy"}],
}
ROWS = {"dataset_name": "org/texts"}
PRUNED = {
    "kind": "prune",
    "model": {"model_name_or_path": "stage:teacher"},
    "data": ROWS,
    "depth": {"remove_layers": 2},
}


def recipe_of(**fields):
    written = {key: value for key, value in {**PRUNED, **fields}.items() if value is not None}
    return {"name": "r", "stages": {"teacher": TEACHER, "pruned": written}}


def problems(**fields):
    with pytest.raises(InputError) as caught:
        checked_recipe(recipe_of(**fields))
    return caught.value.problems


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"depth": {"layers": [1, 3]}, "data": None},
        {"depth": None, "width": {"num_key_value_heads": 2}},
        {"data": {"kind": "mixture", "sources": [ROWS, {"dataset_name": "org/others"}]}},
        {"data": TEACHER["data"]},
        {"data": {**ROWS, "rationale": {"kind": "chain_of_thought"}}},
        {"model": {"model_name_or_path": "org/model", "adapter_name_or_path": "org/adapter"}},
    ],
)
def test_what_fits_loads(fields):
    recipe = checked_recipe(recipe_of(**fields))
    assert recipe.stages["pruned"].kind == "prune"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": None}, "stages.pruned: leaves nothing out; write `depth: {remove_layers: ...}`"),
        ({"depth": {}}, "stages.pruned.depth.remove_layers: write either `remove_layers`"),
        ({"depth": {"remove_layers": 1, "layers": [1]}}, "stages.pruned.depth.remove_layers: write either"),
        ({"depth": {"layers": [1, 2, 1]}}, "stages.pruned.depth.layers: names a layer twice"),
        ({"depth": {"remove_layers": 0}}, "stages.pruned.depth.remove_layers: input should be greater"),
        ({"width": {}}, "stages.pruned.width: cuts nothing; write `intermediate_size`"),
        ({"data": None}, "stages.pruned.data: importance is measured on a calibration set"),
        ({"data": None, "depth": {"layers": [1]}, "width": {"intermediate_size": 8}}, "stages.pruned.data: imp"),
        ({"data": {**ROWS, "packing": True}}, "stages.pruned.data.packing: rows are read one by one"),
        ({"data": {**ROWS, "streaming": True}}, "stages.pruned.data.streaming: a stream has no end"),
        ({"data": {**ROWS, "rationale": {"kind": "step_by_step"}}}, "stages.pruned.data.rationale.kind: two tasks"),
        ({"data": {"kind": "classification", **ROWS}}, "stages.pruned.data: labelled rows are for classifiers"),
        (
            {"model": {"model_name_or_path": "m", "adapter_name_or_path": "stage:teacher"}},
            "stages.pruned.model.adapter_name_or_path: a stage's model has its adapter merged",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_with_what_to_write(fields, message):
    found = problems(**fields)
    assert len(found) == 1
    assert found[0].startswith(message)


def test_a_classifier_is_not_pruned():
    labelled = {"kind": "task", "task": "intents", "num_examples": 9}
    content = recipe_of()
    content["stages"]["teacher"] = {**TEACHER, "data": labelled}
    with pytest.raises(
        InputError, match=r"pruned\.model\.model_name_or_path: stage:teacher makes a"
    ):
        checked_recipe(content)


def test_its_product_is_a_model_and_no_data():
    content = recipe_of()
    content["stages"]["student"] = {
        **TEACHER,
        "student": {"model_name_or_path": "stage:pruned"},
        "data": {"dataset_name": "stage:pruned"},
    }
    with pytest.raises(InputError) as caught:
        checked_recipe(content)
    (problem,) = caught.value.problems
    assert problem.startswith("stages.student.data.dataset_name: stage `pruned` makes a model")
