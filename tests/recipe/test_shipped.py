from pathlib import Path

import pytest

from llmkd.errors import InputError
from llmkd.recipe import load, load_part
from llmkd.recipe.evaluation import Suite
from llmkd.recipe.shipped import find_recipe, find_suite, shipped_folder, shipped_recipes


@pytest.mark.parametrize("path", shipped_recipes(), ids=lambda path: path.stem)
def test_every_shipped_recipe_loads(path):
    assert load(path).description


@pytest.mark.parametrize(
    "path", sorted(shipped_folder("suites").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_shipped_suite_loads(path):
    assert load_part(path, Suite).name == path.stem


@pytest.mark.parametrize("name", ["quickstart", "quickstart.yaml", "recipes/quickstart.yaml"])
def test_a_shipped_recipe_is_found_from_an_empty_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)

    assert find_recipe(name) == shipped_folder("recipes") / "quickstart.yaml"


def test_a_file_rules_over_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart.yaml").touch()

    assert find_recipe("quickstart.yaml") == Path("quickstart.yaml")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quickstrt", "quickstrt: no such file or shipped recipe; did you mean `quickstart`?"),
        ("min.yaml", "min.yaml: no such file or shipped recipe; did you mean `mine`?"),
        (".", ".: is a folder; write the path of a recipe's YAML file"),
    ],
)
def test_an_unknown_name_gets_a_near_one(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").touch()

    with pytest.raises(InputError) as caught:
        find_recipe(name)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["other/quickstart.yaml", "/quickstart.yaml", "x" * 5000])
def test_a_path_elsewhere_is_no_shipped_name(name):
    with pytest.raises(InputError, match="no such file or shipped recipe"):
        find_recipe(name)


def test_a_suite_is_found_by_path(tmp_path):
    path = tmp_path / "suite.yaml"
    path.touch()

    assert find_suite(path) == path


def test_a_wheel_has_its_recipes_inside_the_package(tmp_path, monkeypatch):
    (tmp_path / "shipped" / "recipes").mkdir(parents=True)
    monkeypatch.setattr("llmkd.recipe.shipped.PACKAGE", tmp_path)

    assert shipped_folder("recipes") == tmp_path / "shipped" / "recipes"
    assert shipped_folder("suites") == tmp_path.parent / "eval" / "suites"
