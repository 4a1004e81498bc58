"""One stage in a process of its own: `python -m llmkd.stage_process RUN_FOLDER STAGE [PARENT]`.

Without PARENT, a launcher started it as one of several.
"""

import logging
import os
import sys
import warnings
from pathlib import Path

from llmkd import recipe
from llmkd.failure import reported
from llmkd.processes import die_with, die_with_launcher
from llmkd.rank_messages import error_log
from llmkd.run_plan import RESOLVED_RECIPE, Run
from llmkd.run_stage import run_stage


def main() -> None:
    """Runs the stage; the exit status is the command line's."""
    folder, name, *parent = sys.argv[1:]
    if parent:
        die_with(int(parent[0]))
    else:
        die_with_launcher()
    _settle_libraries()
    run = Path(folder)
    with reported(log=run / "stages" / name / error_log()):
        loaded = recipe.load(run / RESOLVED_RECIPE)
        run_stage(Run(loaded.model_copy(update={"output_dir": folder})), name)


def _settle_libraries() -> None:
    import torch

    # On a CPU, it tells at every start of a kernel that it could fetch.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # Where there is no accelerator, DeepSpeed says so at every start, unless it is told beforehand.
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # DeepSpeed calls older names of torch's: several lines in each step of ZeRO-3, from every process.
    older = r"`torch\.distributed\.\w+` is deprecated"
    warnings.filterwarnings("ignore", message=older, category=FutureWarning)


if __name__ == "__main__":
    main()
