"""One stage in a process of its own: `python -m llmkd.stage_process RUN_FOLDER STAGE [PARENT]`.

Without PARENT, a launcher started it as one of several.
"""

import sys
from pathlib import Path

from llmkd import recipe
from llmkd.failure import reported
from llmkd.processes import die_with, die_with_launcher
from llmkd.quiet_libraries import quiet_libraries
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
    quiet_libraries()
    run = Path(folder)
    with reported(log=run / "stages" / name / error_log()):
        loaded = recipe.load(run / RESOLVED_RECIPE)
        run_stage(Run(loaded.model_copy(update={"output_dir": folder})), name)


if __name__ == "__main__":
    main()
