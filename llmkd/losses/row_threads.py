"""Blocks of rows on a CPU, each by one thread from beginning to end.

Torch splits every operation over all threads and waits for them after it. With blocks that fit a core's
cache those waits come thousands of times per pass, and where another program takes a core away for a
moment, all threads wait for the one that lost it. Here a thread takes a block through all operations.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import torch


def for_each(
    function: Callable[[int], None], starts: Sequence[int], *, device: torch.device
) -> None:
    """Calls the function with every start, on a CPU as many at a time as torch has threads.

    Gradients are off in the function, wherever it runs. An exception is passed on, and none of the
    calls is still running then.

    Args:
        function: Called in no order.
        starts: Its arguments.
        device: Where it computes. An accelerator runs what is queued in this thread's order.
    """
    num_threads = torch.get_num_threads()
    if device.type != "cpu" or num_threads == 1 or len(starts) == 1:
        with torch.no_grad():
            for start in starts:
                function(start)
        return
    futures = [_pool(num_threads).submit(torch.no_grad()(function), start) for start in starts]
    try:
        for future in futures:
            future.result()
    finally:
        for future in futures:
            future.cancel()
        wait(futures)


@cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    all_started = threading.Barrier(num_threads)

    def start() -> None:
        # Of this thread, and of all that ask for the first time later: so it asks at once.
        torch.set_num_threads(1)
        torch.get_num_threads()
        all_started.wait()

    pool = ThreadPoolExecutor(num_threads, "llmkd-rows", initializer=start)
    for _ in range(num_threads):
        pool.submit(int)
    pool.submit(int).result()
    torch.set_num_threads(num_threads)
    return pool


# The threads do not come along.
os.register_at_fork(after_in_child=_pool.cache_clear)
