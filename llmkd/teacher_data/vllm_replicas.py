"""Several copies of a teacher in vLLM, each in a process and with accelerators of its own.

Each copy gets every n-th sequence, so that the same call gives the same completions.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any

import torch

from llmkd.errors import InputError, LlmkdError
from llmkd.recipe.models import PretrainedModel
from llmkd.recipe.teacher_data import Capture, Generation, VLLMEngine
from llmkd.teacher_data.captured import Positions
from llmkd.teacher_data.engine import Written
from llmkd.teacher_data.vllm_engine import OfflineVLLM

DEVICES = "CUDA_VISIBLE_DEVICES"


class VLLMReplicas:
    """An engine (`llmkd.teacher_data.engine.Engine`): `data_parallel_size` times `OfflineVLLM`.

    Args:
        teacher: As for `OfflineVLLM`, and so are the others.
        settings: `tensor_parallel_size` accelerators are taken for each copy.
        generation: How text is sampled; None for scoring.
        capture: What is kept of the distributions; None keeps text only.

    Raises:
        InputError: There are too few accelerators, or what `OfflineVLLM` raises.
        LlmkdError: There is too little memory.
    """

    def __init__(
        self,
        teacher: PretrainedModel,
        settings: VLLMEngine,
        generation: Generation | None,
        capture: Capture | None,
    ):
        shares = device_shares(settings, _devices())
        spawn = multiprocessing.get_context("spawn")
        self._pools = [ProcessPoolExecutor(1, mp_context=spawn) for _ in shares]
        try:
            self._all(
                _start,
                [(share, len(shares), teacher, settings, generation, capture) for share in shares],
            )
        except BaseException:
            self.close()
            raise

    def generate(self, prompts: Sequence[list[int]], seeds: Sequence[int]) -> list[Written]:
        """One completion of each prompt, in their order; see `Engine`."""
        return self._spread(_generate, prompts, seeds)

    def score(self, sequences: Sequence[list[int]], spans: Sequence[list[int]]) -> list[Positions]:
        """What the teacher predicts for tokens that are there already; see `Engine`."""
        return self._spread(_score, sequences, spans)

    def close(self) -> None:
        """Ends the processes."""
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)

    def _spread(self, task: Callable[..., list[Any]], *columns: Sequence[Any]) -> list[Any]:
        step = len(self._pools)
        shares = [tuple(column[i::step] for column in columns) for i in range(step)]
        together: list[Any] = [None] * len(columns[0])
        for i, share in enumerate(self._all(task, shares)):
            together[i::step] = share
        return together

    def _all(self, task: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        pairs = zip(self._pools, arguments, strict=True)
        futures = [pool.submit(task, *each) for pool, each in pairs]
        try:
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise LlmkdError(
                "engine.data_parallel_size: the process of a copy of the teacher was killed, as "
                "happens when memory runs out; write fewer copies, or a smaller "
                "engine.max_num_seqs; what was saved before is kept"
            ) from error


def device_shares(settings: VLLMEngine, devices: Sequence[str]) -> list[str | None]:
    """The accelerators of each copy, as CUDA_VISIBLE_DEVICES; None where there are none at all.

    Raises:
        InputError: There are too few.
    """
    size, num_copies = settings.tensor_parallel_size, settings.data_parallel_size
    if not devices:
        return [None] * num_copies
    if len(devices) < size * num_copies:
        raise InputError(
            f"engine.data_parallel_size: {num_copies} copies on {size} accelerators each need "
            f"{size * num_copies}, and there are {len(devices)}; write data_parallel_size: "
            f"{max(len(devices) // size, 1)}"
        )
    return [",".join(devices[i * size : (i + 1) * size]) for i in range(num_copies)]


def _devices() -> list[str]:
    chosen = os.environ.get(DEVICES)
    return chosen.split(",") if chosen else [str(i) for i in range(torch.cuda.device_count())]


_ENGINE: OfflineVLLM | None = None
"""Of a copy's process."""


def _start(devices: str | None, num_copies: int, *settings: Any) -> None:
    global _ENGINE
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if devices is not None:
        os.environ[DEVICES] = devices
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(torch.get_num_threads() // num_copies, 1))
    _ENGINE = OfflineVLLM(*settings)


def _end_with_parent() -> None:
    """A parent that is killed would leave the accelerator's memory taken."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _generate(prompts: Sequence[list[int]], seeds: Sequence[int]) -> list[Written]:
    assert _ENGINE is not None
    return _ENGINE.generate(prompts, seeds)


def _score(sequences: Sequence[list[int]], spans: Sequence[list[int]]) -> list[Positions]:
    assert _ENGINE is not None
    return _ENGINE.score(sequences, spans)
