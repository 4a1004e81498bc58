"""llmkd: make a small language model out of a large one.

From Python, without the command line:

    from llmkd import run
    from llmkd.recipe import load

    records = run(load("quickstart", ["seed=1"]))
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmkd.evaluation.results import Record
    from llmkd.recipe import Recipe

__version__ = "0.1.0"


def run(recipe: "Recipe", *, overwrite: bool = False, allow_code: bool = False) -> "list[Record]":
    """Runs what is not finished of a recipe; see `llmkd.pipeline.run`."""
    from llmkd import pipeline

    return pipeline.run(recipe, overwrite=overwrite, allow_code=allow_code)
