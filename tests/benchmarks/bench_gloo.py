"""What gloo takes beside what it is given, on a CPU: for `llmkd/check/spread.py`.

    python tests/benchmarks/bench_gloo.py [--output FILE]

Two processes; the resident size that the first had at most during a collective, less that before it,
where the C library gives freed memory back. Each collective is done twice; the second counts.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from circumstances import RESULTS, circumstances, save
from scale_runs import GIVES_BACK

from llmkd.processes import die_with

MIB = 2**20
SIZE_MIB = 256


def beside(collective: Callable[[], object]) -> int:
    """MiB that this process has more of at most while it runs."""
    process = psutil.Process()
    before = most = process.memory_info().rss
    is_done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not is_done.is_set():
            most = max(most, process.memory_info().rss)
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    collective()
    is_done.set()
    watcher.join()
    return round((most - before) / MIB)


def work(rank: int, folder: str, parent: int) -> None:
    die_with(parent)
    file = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=file, rank=rank, world_size=2)
    whole, part = torch.ones(SIZE_MIB * MIB // 4), torch.ones(SIZE_MIB * MIB // 8)
    collectives: dict[str, Callable[[], object]] = {
        "all_gather": lambda: dist.all_gather_into_tensor(whole, part),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(part, whole),
        "all_reduce": lambda: dist.all_reduce(whole),
    }
    found = {name: [beside(each), beside(each)][1] for name, each in collectives.items()}
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.barrier()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS / "gloo_cpu.json")
    args, begun = parser.parse_args(), circumstances()
    if not GIVES_BACK.items() <= os.environ.items():
        # The C library reads them when a process begins.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | GIVES_BACK)
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(work, (folder, os.getpid()), nprocs=2, start_method="spawn")
        found = json.loads(Path(folder, "found.json").read_text())
    result = {**begun, "torch": torch.__version__, "whole_mib": SIZE_MIB, "beside_mib": found}
    save(args.output, result)


if __name__ == "__main__":
    main()
