"""One stage in a process of its own: `python -m llmkd.stage_process RUN_FOLDER STAGE PARENT`."""

import ctypes
import os
import signal
import sys
from pathlib import Path

from llmkd import recipe
from llmkd.failure import reported
from llmkd.run_plan import RESOLVED_RECIPE, Run
from llmkd.run_stage import ERROR_LOG, run_stage

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Runs the stage; the exit status is the command line's."""
    folder, name, parent = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    _die_with(parent)
    _settle_accelerator()
    with reported(log=folder / "stages" / name / ERROR_LOG):
        loaded = recipe.load(folder / RESOLVED_RECIPE)
        run_stage(Run(loaded.model_copy(update={"output_dir": str(folder)})), name)


def _die_with(parent: int) -> None:
    # Killed with -9, the parent can take nobody along; on Linux the kernel does it.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)


def _settle_accelerator() -> None:
    # Where there is none, DeepSpeed says so at every start, unless it is told beforehand.
    import torch

    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


if __name__ == "__main__":
    main()
