"""Where lm-eval's tasks are written down, and in how many files. Imports neither torch nor lm-eval."""

import os
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import yaml

from llmkd.errors import InputError
from llmkd.recipe.places import nearest

_TASK = re.compile(
    rb"""^["']?task["']?:[ \t]*["']?([^\s"'#\[\]{},]+)["']?[ \t]*(?:#.*)?\r?$""", re.M
)
_MODULE = re.compile(r"""!function\s+["']?([\w.]+)\.\w""")


def find_definition(name: str) -> Path:
    """The file that defines a task of lm-eval.

    Raises:
        InputError: lm-eval is not installed, or has no such task; says which one is near.
    """
    known = shipped_definitions()
    if name not in known:
        near = nearest(name, known)
        there = f"did you mean `{near}`?" if near else "lm-eval ls tasks prints all that there are"
        raise InputError(f"task: lm-eval has no task {name} (groups are no tasks); {there}")
    return known[name]


@cache
def shipped_definitions() -> dict[str, Path]:
    """From the name of each of lm-eval's tasks to its file.

    lm-eval's own index parses 14,000 files of YAML, which takes seconds; a test compares the two.
    """
    found: dict[str, Path] = {}
    for path in sorted((refuse_without_lm_eval() / "tasks").glob("**/*.yaml")):
        match = _TASK.search(path.read_bytes())
        if match:
            found.setdefault(match[1].decode(), path)
    return found


def files_of(definition: Path) -> list[Path]:
    """The files that a task of one's own is made of: its YAML, what that includes, and its Python.

    What cannot be read has no further files: it is refused when the task is loaded. What the Python
    imports is not followed.
    """
    found: list[Path] = []
    left = [definition]
    while left:
        path = left.pop()
        if path not in found:
            found.append(path)
            left += [] if path.suffix == ".py" else _named_in(path)
    return found


class _Loader(yaml.SafeLoader):
    """With the name that stands after `!function` as text."""


_Loader.add_constructor("!function", lambda _, node: node.value)


def _named_in(path: Path) -> list[Path]:
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, _Loader)
    except (OSError, ValueError, yaml.YAMLError):
        return []
    named = content.get("include") if isinstance(content, dict) else None
    includes = named if isinstance(named, list) else [] if named is None else [named]
    modules = {name.replace(".", "/") for name in _MODULE.findall(text)}
    beside = (path.parent / f"{module}.py" for module in sorted(modules))
    # Without `..`, so that a circle ends.
    included = (Path(os.path.normpath(path.parent / str(name))) for name in includes)
    return [*included, *filter(Path.is_file, beside)]


def refuse_without_lm_eval() -> Path:
    """The folder of lm-eval.

    Raises:
        InputError: It is not installed.
    """
    spec = find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "tasks of kind lm_eval need lm-eval, which is not installed; "
            "run pip install 'llmkd[eval]'"
        )
    return Path(spec.submodule_search_locations[0])
