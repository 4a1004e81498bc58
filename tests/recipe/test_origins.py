from pathlib import Path

import pytest

from llmkd.recipe import load, load_with_source
from llmkd.recipe.origins import origins, to_yaml_with_origins
from llmkd.recipe.shipped import shipped_recipes
from llmkd.recipe.yaml_places import read_file

TEXTS = Path(__file__).parent / "texts"
ONE_STAGE = (TEXTS / "one_stage.yaml").read_text()
EVERY_RECIPE = [*shipped_recipes(), *TEXTS.glob("*.yaml")]


@pytest.fixture
def origin(tmp_path):
    """Loads a text with overrides, and gives the origin of each dotted key."""

    def of(text, *overrides):
        path = tmp_path / "a.yaml"
        path.write_text(text)
        return origins(*load_with_source(path, overrides))

    return of


def test_a_value_comes_from_a_line_an_override_or_nowhere(origin):
    found = origin(ONE_STAGE, "trainer.max_steps=20", "seed=1")

    assert found["stages.train.data.digits"] == "a.yaml:4"
    assert found["stages.train.losses.0.kind"] == "a.yaml:6"
    assert found["stages.train.trainer.learning_rate"] == "a.yaml:7"
    assert found["stages.train.trainer.max_steps"] == "override trainer.max_steps=20"
    assert found["seed"] == "override seed=1"
    assert found["stages.train.losses.0.weight"] == "default"
    assert found["stages.train.teacher"] == "default"


def test_the_last_override_is_the_origin(origin):
    overrides = ["losses=[{kind: cross_entropy, weight: 2}]", "losses.0.weight=3"]
    found = origin(ONE_STAGE, *overrides)

    assert found["stages.train.losses.0.kind"] == f"override {overrides[0]}"
    assert found["stages.train.losses.0.weight"] == f"override {overrides[1]}"


def test_what_an_override_takes_away_is_a_default_again(origin):
    text = ONE_STAGE.replace("entropy}", "entropy, weight: 2, name: a}")
    found = origin(text, "losses=[{kind: cross_entropy}]")

    assert found["stages.train.losses.0.weight"] == "default"


def test_an_alias_leads_to_the_line_that_it_stands_for(origin):
    text = """\
name: a
stages:
  first:
    kind: train
    student: &student
      kind: scratch
      config: {model_type: llama}
    data: &data {kind: task, num_examples: 3}
    losses: [{kind: cross_entropy}]
  second:
    kind: train
    student: *student
    data: *data
    losses: [{kind: cross_entropy}]
"""
    found = origin(text)

    assert found["stages.second.student.config.model_type"] == "a.yaml:7"
    assert found["stages.second.data.num_examples"] == "a.yaml:8"
    assert found["stages.second.kind"] == "a.yaml:11"


@pytest.mark.parametrize("path", EVERY_RECIPE, ids=lambda path: path.stem)
def test_the_yaml_with_origins_loads_back_to_an_equal_recipe(path, tmp_path):
    recipe, source = load_with_source(path)
    written = tmp_path / "resolved.yaml"
    written.write_text(to_yaml_with_origins(recipe, source), encoding="utf-8")

    assert load(written) == recipe


@pytest.mark.parametrize("path", EVERY_RECIPE, ids=lambda path: path.stem)
def test_each_line_with_a_value_says_where_it_comes_from(path):
    recipe, source = load_with_source(path)
    heading, *lines = to_yaml_with_origins(recipe, source).splitlines()

    assert heading.startswith("# ")
    with_values = [line for line in lines if not line.partition("  #")[0].endswith(":")]
    assert all("  # " in line for line in with_values)
    assert len(with_values) >= len(origins(recipe, source))


def test_the_line_named_is_the_line_where_the_value_stands():
    path = TEXTS / "whole.yaml"
    lines, document = path.read_text().splitlines(), read_file(path)
    found = origins(*load_with_source(path))
    named = {key: origin for key, origin in found.items() if ".yaml:" in origin}

    assert len(named) > 50
    for key, origin in named.items():
        line = lines[int(origin.rpartition(":")[2]) - 1]
        value = document.value
        for part in key.split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
        assert key.rpartition(".")[2] in line or str(value) in line


def test_the_trainer_block_shows_llmkds_defaults_as_comments(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(ONE_STAGE.replace("max_steps: 10", "max_steps: 10, logging_steps: 5"))
    text = to_yaml_with_origins(*load_with_source(path))

    assert "      # save_total_limit: 2" in text
    assert "# logging_steps" not in text
    assert "hub_strategy" not in text, "a recipe may not write it"


def test_odd_text_stays_in_its_comment(tmp_path):
    path = tmp_path / "a b\nc.yaml"
    path.write_text(ONE_STAGE)
    overrides = ['description="two\\nlines # and more"', "output_dir='x: y'"]
    recipe, source = load_with_source(path, overrides)
    written = tmp_path / "resolved.yaml"
    written.write_text(to_yaml_with_origins(recipe, source), encoding="utf-8")

    assert load(written) == recipe
