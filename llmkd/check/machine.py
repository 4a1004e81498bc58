"""What the machine has: memory, accelerators, disk. Nothing but the standard library."""

import csv
import os
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LONGEST_WAIT_S = 2.0
MIB = 2**20
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Memory:
    """One pool of memory, in bytes."""

    name: str
    total: int
    free: int


@dataclass(frozen=True)
class Machine:
    """What there is to run on."""

    system: Memory | None
    """The processor's; None where the system does not say."""
    accelerators: list[Memory]
    accelerators_known: str
    """How the accelerators were found, or why they were not."""
    num_cpus: int

    def as_data(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return asdict(self)


class AcceleratorQuery:
    """Asks `nvidia-smi` while other work goes on: it can take longer than all the rest."""

    def __init__(self):
        program = shutil.which("nvidia-smi")
        self.process: subprocess.Popen[str] | None = None
        if program is not None:
            fields = "--query-gpu=name,memory.total,memory.free"
            try:
                self.process = subprocess.Popen(
                    [program, fields, "--format=csv,noheader,nounits"],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
            except OSError:
                self.process = None

    def answer(self) -> tuple[list[Memory], str]:
        """The accelerators, and how that is known."""
        if self.process is None:
            return [], "no nvidia-smi here"
        try:
            output, _ = self.process.communicate(timeout=LONGEST_WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            return [], f"nvidia-smi did not answer within {LONGEST_WAIT_S:.0f} s"
        except ValueError:
            return [], "nvidia-smi gave no text"
        return parse_accelerators(output), "by nvidia-smi"


def parse_accelerators(output: str) -> list[Memory]:
    """From nvidia-smi's lines of `name, total MiB, free MiB`; lines of another form are left out."""
    found: list[Memory] = []
    for row in csv.reader(output.splitlines(), skipinitialspace=True):
        if len(row) == 3 and row[1].isdecimal() and row[2].isdecimal():
            found.append(
                Memory(f"GPU {len(found)} ({row[0]})", int(row[1]) * MIB, int(row[2]) * MIB)
            )
    return found


def look(query: AcceleratorQuery) -> Machine:
    """What this machine has."""
    accelerators, how = query.answer()
    return Machine(system_memory(), accelerators, how, os.cpu_count() or 1)


def system_memory() -> Memory | None:
    """Main memory, or what the container may take of it."""
    memory = _of_proc(Path("/proc/meminfo")) or _of_sysconf()
    limit, used = _number(CGROUP / "memory.max"), _number(CGROUP / "memory.current")
    if memory is None or limit is None or used is None or limit >= memory.total:
        return memory
    free = max(0, limit - used + (_reclaimable() or 0))
    return Memory("memory of this container", limit, min(free, memory.free))


def free_disk(folder: Path) -> tuple[Path, int]:
    """The nearest folder that exists, and the free bytes of its file system.

    Raises:
        OSError: None can be looked at.
    """
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder, shutil.disk_usage(folder).free


def _of_proc(path: Path) -> Memory | None:
    try:
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
        total, free = (int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    except (OSError, ValueError, KeyError):
        return None
    return Memory("main memory", total * 1024, free * 1024)


def _of_sysconf() -> Memory | None:
    # macOS: what is free cannot be asked this way, so all of it is taken for free.
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
    return Memory("main memory, all of it", total, total)


def _reclaimable() -> int | None:
    """Pages of files that the kernel gives up when memory is needed."""
    try:
        lines = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return int(lines["inactive_file"])
    except (OSError, ValueError, KeyError):
        return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
