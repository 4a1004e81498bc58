"""Runs several recipes one after the other in the processes of one launcher: FILE of [recipe, ...]."""

import json
import os
import sys
from pathlib import Path

from accelerate import Accelerator

from llmkd import run
from llmkd.processes import die_with
from llmkd.recipe import load

if __name__ == "__main__":
    die_with(os.getppid())
    # The processes stay connected from one recipe to the next.
    Accelerator.end_training = lambda self: None
    for recipe in json.loads(Path(sys.argv[1]).read_text()):
        run(load(recipe))
