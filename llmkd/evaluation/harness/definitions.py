"""Where lm-eval's tasks are written down, found by name. Imports neither torch nor lm-eval."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from llmkd.errors import InputError
from llmkd.recipe.places import nearest

_TASK = re.compile(
    rb"""^["']?task["']?:[ \t]*["']?([^\s"'#\[\]{},]+)["']?[ \t]*(?:#.*)?\r?$""", re.M
)


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
