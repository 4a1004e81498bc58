"""What the check knows of a prune stage, and what it refuses."""

import json

import pytest

from llmkd.advice import smaller
from llmkd.errors import InputError

RECIPE = """\
name: local
stages:
  pruned:
    kind: prune
    model: {model_name_or_path: TEACHER}
    data: {dataset_name: DATA, max_length: 40}
    num_examples: 10
    depth: {remove_layers: 1, protect_first: 0, protect_last: 0}
  student:
    kind: train
    student: {model_name_or_path: stage:pruned}
    teacher: {model_name_or_path: TEACHER}
    data: {dataset_name: DATA, max_length: 40}
    losses: [{kind: forward_kl}]
"""
STAGE = "stages.pruned."


@pytest.fixture
def path(local):
    """The recipe, on a model of two layers and ten rows."""
    text = RECIPE.replace("TEACHER", str(local / "teacher"))
    path = local / "pruned.yaml"
    path.write_text(text.replace("DATA", str(local / "data.jsonl")))
    return path


def problem(checked, path, *overrides):
    with pytest.raises(InputError) as caught:
        checked(path, *overrides)
    (found,) = caught.value.problems
    return found


def test_sizes_before_and_after_are_told(path, checked):
    stages = checked(path, STAGE + "width={intermediate_size: 40, num_key_value_heads: 1}").stages
    facts = stages["pruned"].facts
    # 18 x 32 twice; a layer has q and o 32 x 32, k and v 32 x 16, MLP 3 x 32 x 64, two norms; one more.
    whole = 2 * 18 * 32 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 64) + 32
    # One layer, half of the heads, 40 channels.
    cut = 2 * 18 * 32 + (2 * 32 * 16 + 2 * 32 * 8 + 3 * 32 * 40 + 64) + 32
    assert (facts["parameters before"].value, facts["parameters after"].value) == (whole, cut)
    assert facts["disk"].value == 4 * cut
    assert facts["memory"].value > 4 * whole
    assert (facts["rows"].value, facts["rows"].exactness) == (10, "exact")
    assert stages["student"].facts["student parameters"].value == cut
    assert stages["student"].facts["vocabulary"].value == 18
    assert not stages["pruned"].warnings


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("depth.remove_layers=2", "depth.remove_layers=2: 2 of 2 layers cannot go"),
        ("depth={layers: [2]}", "depth.layers.0: 2 is no layer of the model, which has 2"),
        ("width={intermediate_size: 64}", "width.intermediate_size: 64 is to stay"),
        ("num_examples=11", "num_examples=11: the calibration set has 10 rows, and 11 are asked"),
        ("data.num_examples=3", "num_examples: the calibration set has 3 rows, and 10 are asked"),
        (
            "data.dataset_name=nowhere.jsonl",
            "data.dataset_name=nowhere.jsonl: nowhere.jsonl does not exist",
        ),
        ("model.adapter_name_or_path=./no", "model.adapter_name_or_path=./no: ./no does not exist"),
    ],
)
def test_what_the_stage_would_be_refused_for_is_told_before(path, checked, override, message):
    assert STAGE + message in problem(checked, path, STAGE + override)


def set_fields(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def test_an_architecture_that_is_not_in_the_table_is_refused(path, checked, local):
    set_fields(local / "teacher", model_type="gpt_neox")
    found = problem(checked, path)
    assert "model.model_name_or_path: gpt_neox is no architecture that can be pruned yet" in found


def test_of_a_model_that_is_not_here_nothing_is_known(path, checked):
    stages = checked(path, STAGE + "model.model_name_or_path=org/absent").stages
    assert stages["pruned"].facts["parameters after"].value is None
    assert stages["student"].facts["student parameters"].value is None


def test_fewer_heads_of_a_qwen2_warn_of_vllm(path, checked, local):
    set_fields(local / "teacher", model_type="qwen2")
    heads = STAGE + "width={num_key_value_heads: 1}"
    (warning,) = checked(path, heads).stages["pruned"].warnings
    assert "cannot load it with fewer of them" in warning
    assert not checked(path, STAGE + "width={intermediate_size: 8}").stages["pruned"].warnings


def test_less_memory_is_smaller_batches_and_shorter_rows(path, checked):
    stage = checked(path).recipe.stages["pruned"]
    assert smaller(stage) == ["batch_size: 4", "data.max_length below 40"]
    narrow = checked(path, STAGE + "model.dtype=float32").recipe.stages["pruned"]
    assert smaller(narrow)[-1] == "model.dtype: bfloat16"
