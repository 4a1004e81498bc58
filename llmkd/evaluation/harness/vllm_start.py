"""vLLM under lm-eval: started by the first question, as all answers may be there, and closed again."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from llmkd.teacher_data.vllm_engine import HeldLLM
from llmkd.teacher_data.vllm_faults import import_vllm


class LateLLM(HeldLLM):
    """What lm-eval uses of vLLM's `LLM`, which is started by the first question.

    Args:
        settings: Of the `LLM`.
    """

    def __init__(self, **settings: Any):
        super().__init__()
        self._settings = settings

    @cached_property
    def llm_engine(self) -> Any:
        """Its `model_config` alone, which is known before it starts."""
        arguments = import_module("vllm.engine.arg_utils").EngineArgs(**self._settings)
        return SimpleNamespace(model_config=arguments.create_model_config())

    def generate(self, *args: Any, **settings: Any) -> Any:
        """As vLLM's."""
        if self._llm is None:
            self._llm = import_vllm().LLM(**self._settings)
        return self._llm.generate(*args, **settings)

    def close(self) -> None:
        """As of every `LLM`, where it was started."""
        if self._llm is not None:
            super().close()


@contextmanager
def late_start(module: Any) -> Iterator[None]:
    """In the block, lm-eval's module of vLLM makes a `LateLLM`, for it starts what it makes at once."""
    started_at_once = module.LLM
    module.LLM = LateLLM
    try:
        yield
    finally:
        module.LLM = started_at_once
