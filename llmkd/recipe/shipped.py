"""Recipes and suites that come with llmkd, found from any folder."""

from pathlib import Path
from typing import Literal

from llmkd.errors import InputError
from llmkd.recipe.places import meant

PACKAGE = Path(__file__).resolve().parent.parent
SUFFIXES = (".yaml", ".yml")

# In a wheel they are inside the package; in a checkout they are beside it.
_IN_CHECKOUT = {"recipes": Path("recipes"), "suites": Path("eval/suites")}


def shipped_folder(kind: Literal["recipes", "suites"]) -> Path:
    """The folder of shipped recipes or suites."""
    in_wheel = PACKAGE / "shipped" / kind
    return in_wheel if in_wheel.is_dir() else PACKAGE.parent / _IN_CHECKOUT[kind]


def shipped_recipes() -> list[Path]:
    """The shipped recipes, by name."""
    return _files("recipes")


def find_recipe(name_or_path: str | Path) -> Path:
    """A recipe's file: a path, or a shipped name (`quickstart`, `recipes/quickstart.yaml`).

    Raises:
        InputError: There is none; says which name is near.
    """
    return _find(name_or_path, "recipes", "recipe")


def find_suite(name_or_path: str | Path) -> Path:
    """A suite's file: a path, or a shipped name.

    Raises:
        InputError: There is none; says which name is near.
    """
    return _find(name_or_path, "suites", "suite")


def _find(name_or_path: str | Path, kind: Literal["recipes", "suites"], word: str) -> Path:
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    shipped = {file.stem: file for file in _files(kind)}
    # `recipes/quickstart.yaml` names the shipped file; `mine/quickstart.yaml` does not.
    is_name = str(path.parent) in (".", str(_IN_CHECKOUT[kind])) and not path.is_absolute()
    name = path.stem if path.suffix in SUFFIXES else path.name
    if is_name and name in shipped:
        return shipped[name]
    if path.is_dir():
        raise InputError(f"{path}: is a folder; write the path of a {word}'s YAML file")
    near_files = [file.stem for file in _siblings(path)]
    hint = meant(name, [*near_files, *shipped])
    raise InputError(f"{name_or_path}: no such file or shipped {word}; {hint}")


def _files(kind: Literal["recipes", "suites"]) -> list[Path]:
    folder = shipped_folder(kind)
    return sorted(file for file in folder.glob("*") if file.suffix in SUFFIXES)


def _siblings(path: Path) -> list[Path]:
    if not path.parent.is_dir():
        return []
    return sorted(file for file in path.parent.iterdir() if file.suffix in SUFFIXES)
