"""Extensions that torch compiles at their first use, as DeepSpeed's are: where, and after a kill.

torch marks a build by a file named `lock`, which the building process holds open; whoever needs the same
waits until it is gone. Of a build that was killed it stays, and all would wait for ever.
"""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from llmkd.cache_folder import cache_folder
from llmkd.progress import say

FOLDER = "TORCH_EXTENSIONS_DIR"
LOCK = "lock"


def prepare_builds() -> None:
    """Has this process, and those that it starts, build in a folder of this machine; clears it of dead locks.

    A home folder may be shared by machines with other processors, whose builds would not run here, and
    whose processes cannot be looked at.
    """
    version = f"py{sys.version_info.major}{sys.version_info.minor}-torch{torch.__version__}"
    own = cache_folder() / "torch_extensions" / socket.gethostname() / version
    if os.environ.setdefault(FOLDER, str(own)) != str(own):
        return  # The user's choice, and nobody knows who else builds there.
    locks = {lock.resolve() for lock in own.glob(f"*/{LOCK}")}
    # To look through all processes takes a moment.
    for lock in locks.difference(_open_files()) if locks else ():
        say(f"{lock}: a build was killed here; it is made again")
        lock.unlink(missing_ok=True)


def _open_files() -> Iterator[Path]:
    for process in psutil.process_iter():
        # Other users' builds are in other folders.
        with suppress(psutil.Error):
            yield from (Path(file.path) for file in process.open_files())
