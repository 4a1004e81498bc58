from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llmkd.recipe import Recipe, load, load_with_source
from llmkd.recipe.dump import to_yaml
from llmkd.recipe.origins import to_yaml_with_origins

TEXTS = Path(__file__).parent / "texts"
ONE_STAGE = (TEXTS / "one_stage.yaml").read_text()
WHOLE = (TEXTS / "whole.yaml").read_text()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("dump") / "resolved.yaml"


@pytest.mark.parametrize("text", [ONE_STAGE, WHOLE], ids=["one stage", "whole"])
def test_a_resolved_recipe_loads_back_and_is_stable(path, text):
    path.write_text(text)
    recipe = load(path)

    path.write_text(to_yaml(recipe), encoding="utf-8")

    assert load(path) == recipe
    assert to_yaml(load(path)) == to_yaml(recipe)


def test_defaults_are_filled_in(path):
    path.write_text(ONE_STAGE)

    resolved = to_yaml(load(path))

    assert resolved.startswith("name: one\ndescription: ''\nseed: 0\noutput_dir: null\nstages:\n")
    assert "weight: 1.0" in resolved
    assert "resume: auto" in resolved


texts = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufeff\ufffe\uffff"),
    max_size=30,
) | st.sampled_from(
    [
        *[
            "1e-4",
            "010",
            "0o7",
            "0x1f",
            "on",
            "No",
            "12:30",
            "null",
            "~",
            ".inf",
            "1_0",
            "2024-01-31",
        ],
        *[
            "a: b",
            "# a",
            "- a",
            "*a",
            "&a",
            "!a",
            "a\nb",
            " a",
            "a ",
            "'",
            '"',
            "=",
            "<<",
            "-",
            "?",
        ],
    ]
)
scalars = texts | st.booleans() | st.none() | st.integers(-(2**62), 2**62)
scalars |= st.floats(allow_nan=False, allow_infinity=False)
configs = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)
weights = st.floats(0, 1e300, exclude_min=True) | st.builds(
    lambda start, end, kind: {"kind": kind, "start": start, "end": end},
    st.floats(1e-300, 1e6),
    st.floats(0, 1e6),
    st.sampled_from(["linear", "cosine"]),
)


@st.composite
def recipes(draw):
    config = draw(st.dictionaries(texts, configs, max_size=3)) | {"model_type": "llama"}
    stage = {
        "kind": "train",
        "student": {"kind": "scratch", "config": config},
        "data": {"kind": "task", "num_examples": draw(st.integers(1, 10**12))},
        "losses": [{"kind": "cross_entropy", "weight": draw(weights)}],
        "trainer": {"learning_rate": draw(st.floats(1e-300, 1e300))},
    }
    return Recipe(
        name="a",
        description=draw(texts),
        seed=draw(st.integers(0, 2**62)),
        output_dir=draw(st.none() | texts),
        stages=Recipe.model_validate({"name": "a", "stages": {"s": stage}}).stages,
    )


@given(recipes())
def test_any_recipe_loads_back_as_it_was(path, recipe):
    path.write_text(to_yaml(recipe), encoding="utf-8", newline="\n")

    assert load(path) == recipe


@given(recipes())
def test_other_readers_of_yaml_find_the_same_values(recipe):
    assert yaml.safe_load(to_yaml(recipe)) == recipe.model_dump()


@given(recipes())
def test_any_recipe_loads_back_from_yaml_with_origins(path, recipe):
    path.write_text(to_yaml(recipe), encoding="utf-8", newline="\n")
    path.write_text(to_yaml_with_origins(*load_with_source(path)), encoding="utf-8", newline="\n")

    assert load(path) == recipe


@pytest.mark.parametrize("mark", ["\x85", "\u2028", "\u2029"])
def test_line_ends_of_older_yaml_stay_in_a_text(path, mark):
    path.write_text(ONE_STAGE)
    recipe = load(path).model_copy(update={"description": f"{mark}a{mark} b{mark}"})
    path.write_text(to_yaml(recipe), encoding="utf-8", newline="\n")
    assert load(path) == recipe

    path.write_text(to_yaml_with_origins(*load_with_source(path)), encoding="utf-8", newline="\n")
    assert load(path) == recipe
