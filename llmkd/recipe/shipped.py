"""Recipes and suites that come with llmkd, found from any folder."""

from pathlib import Path
from typing import Literal

from llmkd.errors import InputError
from llmkd.recipe.local_paths import expanded, is_there, names_in
from llmkd.recipe.places import meant

PACKAGE = Path(__file__).resolve().parent.parent
SUFFIXES = (".yaml", ".yml")
LAUNCHERS = "accelerate"
"""The folder beside the recipes with files of accelerate's launcher."""

# In a wheel they are inside the package; in a checkout they are beside it.
_IN_CHECKOUT = {
    "recipes": Path("recipes"),
    "suites": Path("eval/suites"),
    "references": Path("eval/references"),
}


def shipped_folder(kind: Literal["recipes", "suites", "references"]) -> Path:
    """The folder of shipped recipes, suites, or published results."""
    in_wheel = PACKAGE / "shipped" / kind
    return in_wheel if in_wheel.is_dir() else PACKAGE.parent / _IN_CHECKOUT[kind]


def shipped_recipes() -> list[Path]:
    """The shipped recipes, each of another name, whatever folder it is in."""
    return _files("recipes")


def beside_recipes(value: str) -> str:
    """A shipped `prompts/NAME.txt` where the path itself leads nowhere; anything else as it is."""
    shipped = shipped_folder("recipes") / value
    is_prompt = Path(value).parent == Path("prompts")
    return str(shipped) if is_prompt and shipped.is_file() and not is_there(Path(value)) else value


def shipped_prompts() -> list[str]:
    """The prompts that `beside_recipes` finds from any folder."""
    return [f"prompts/{name}" for name in names_in(shipped_folder("recipes") / "prompts")]


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
    path = expanded(name_or_path)
    if is_there(path) and not path.is_dir():
        return path
    shipped = {file.stem: file for file in _files(kind)}
    # `recipes/quickstart.yaml` names the shipped file; `mine/quickstart.yaml` does not.
    folders = {"."} | {
        str(_IN_CHECKOUT[kind] / file.parent.relative_to(shipped_folder(kind)))
        for file in shipped.values()
    }
    is_name = str(path.parent) in folders and not path.is_absolute()
    name = path.stem if path.suffix in SUFFIXES else path.name
    if is_name and name in shipped:
        return shipped[name]
    if is_there(path):
        raise InputError(f"{path}: is a folder; write the path of a {word}'s YAML file")
    beside = [file for file in names_in(path.parent) if Path(file).suffix in SUFFIXES]
    hint = meant(name, [*(Path(file).stem for file in beside), *shipped])
    raise InputError(f"{name_or_path}: no such file or shipped {word}; {hint}")


def _files(kind: Literal["recipes", "suites"]) -> list[Path]:
    folder = shipped_folder(kind)
    files = (
        file
        for file in folder.rglob("*")
        if file.suffix in SUFFIXES and file.parent.name != LAUNCHERS
    )
    return sorted(files, key=lambda file: file.stem)
