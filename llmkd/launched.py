"""accelerate's launcher in a process that ends with its parent: `python -m llmkd.launched PARENT ...`.

The exit status is that of the process that failed first, as a shell gives it.
"""

import logging
import os
import signal
import sys
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from llmkd.compiled import prepare_builds
from llmkd.errors import InputError
from llmkd.exit_statuses import as_shell, of_signal
from llmkd.failure import reported
from llmkd.processes import LAUNCHER, die_with
from llmkd.quiet_libraries import quiet_libraries
from llmkd.rank_messages import others_told
from llmkd.recipe.shipped import LAUNCHERS, shipped_folder

OTHER_SIGNALS = "SIGINT,SIGHUP,SIGQUIT"


def main() -> None:
    """Starts the processes, and waits for them."""
    die_with(int(sys.argv[1]))
    # DeepSpeed compiles with ninja, which lies beside the interpreter.
    beside = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([beside, os.environ.get("PATH", os.defpath)])
    prepare_builds()
    # What failed has said so itself.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ[LAUNCHER] = str(os.getpid())
    quiet_libraries()
    # As `python -P`, for the processes too: no modules from the current folder.
    os.environ["PYTHONSAFEPATH"] = "1"
    with reported():
        arguments = _arguments(sys.argv[2:])
        # The launcher's own way would kill after 30 seconds what is still saving.
        signal.signal(signal.SIGTERM, _pass_on)
        try:
            with others_told():
                launch_command(arguments)
        except ChildFailedError as error:
            sys.exit(_status(error))


def _arguments(given: list[str]) -> Namespace:
    arguments: Any = launch_command_parser().parse_args(given)
    arguments.signals_to_handle = OTHER_SIGNALS
    # The recipe's, which the head goes by too; a file's own would be half of it.
    arguments.mixed_precision = "no"
    if arguments.num_processes is None and _is_shipped(arguments.config_file):
        arguments.num_processes = torch.accelerator.device_count()
        if arguments.num_processes == 0:
            raise InputError(
                "--num-processes: there is no accelerator here to count; write how many processes"
            )
    if arguments.num_processes:
        here = max(1, arguments.num_processes // (arguments.num_machines or 1))
        # Else torchrun takes one thread for each, and says so at length.
        threads = max(1, len(os.sched_getaffinity(0)) // here)
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    return arguments


def _is_shipped(file: str) -> bool:
    return Path(file).parent == shipped_folder("recipes") / LAUNCHERS


def _pass_on(number: int, _: object) -> None:
    children = psutil.Process().children()
    if not children:
        sys.exit(of_signal(number))
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.send_signal(number)


def _status(error: ChildFailedError) -> int:
    _, failure = error.get_first_failure()
    return as_shell(failure.exitcode)


if __name__ == "__main__":
    main()
