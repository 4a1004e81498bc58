"""A teacher in vLLM, in this process.

Each completion has a seed of its own, each call starts with an empty prefix cache, and all of vLLM
runs in this process unless the model is spread over several accelerators: the same call on the same
machine gives the same completions. What vLLM does not promise: that a completion has the same tokens
in another batch, where sums are rounded differently, so that now and then a near tie falls the other
way.
"""

import gc
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int

from llmkd.models.load import dtype_name
from llmkd.models.refusals import refuse_pickles
from llmkd.recipe.models import PretrainedModel
from llmkd.recipe.teacher_data import Capture, Generation, VLLMEngine
from llmkd.teacher_data.captured import Positions, TopKPositions
from llmkd.teacher_data.engine import Written
from llmkd.teacher_data.vllm_adapters import adapter_request, adapter_settings
from llmkd.teacher_data.vllm_faults import explained, import_vllm, is_without_compiler
from llmkd.teacher_data.vllm_log_probs import of_spans, positions_of_rows
from llmkd.teacher_data.vllm_requests import (
    check_lengths,
    num_kept,
    sampling,
    scoring,
    vocabulary_of,
    written,
)

MAX_LOG_PROBS = 2**23
"""Log-probabilities that vLLM may hold at once as Python objects, of about 100 bytes each. A sequence
that has more goes by itself."""
MAX_LOGITS = 2**28
"""Logits that scoring may compute at once: 1 GiB in float32."""
MAX_TOKENS_AT_ONCE = 8192

Read = TypeVar("Read")


@dataclass(frozen=True)
class _Request(Generic[Read]):
    prompt: list[int]
    settings: dict[str, Any]
    num_log_probs: int
    """At most so many come back."""
    read: Callable[[Any], Read]
    """Gets vLLM's answer, as soon as it is whole."""


def loading_rules(source: PretrainedModel) -> dict[str, Any]:
    """What vLLM may load beside tensors in safetensors files, as it takes it: nothing, unless asked.

    Raises:
        InputError: There are none, and others were not asked for.
    """
    refuse_pickles(source)
    return {
        "trust_remote_code": source.trust_remote_code,
        # `auto` reads pickled files where there are no others.
        "load_format": "safetensors" if source.use_safetensors else "auto",
    }


class HeldLLM:
    """vLLM's `LLM` in this process, and what it changes there, until it is closed."""

    def __init__(self) -> None:
        self._llm: Any = None
        self._set_num_threads = torch.set_num_threads

    def close(self) -> None:
        """Gives the memory back, and undoes what vLLM changed in torch."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
        # What nothing refers to any more.
        gc.collect()
        import_module("vllm.distributed").cleanup_dist_env_and_memory()
        torch.set_num_threads = self._set_num_threads


class OfflineVLLM(HeldLLM):
    """An engine (`llmkd.teacher_data.engine.Engine`): one copy of a causal teacher.

    Args:
        teacher: Where it is; `attn_implementation` is not looked at.
        settings: `data_parallel_size` is not looked at; see `llmkd.teacher_data.vllm_replicas`.
        generation: How text is sampled; None for scoring.
        capture: What is kept of the distributions; None keeps text only.

    Raises:
        InputError: vLLM is not installed, or cannot run this teacher, or not as asked.
        LlmkdError: There is too little memory.
    """

    def __init__(
        self,
        teacher: PretrainedModel,
        settings: VLLMEngine,
        generation: Generation | None,
        capture: Capture | None,
    ):
        self.generation = generation
        self.vocabulary = vocabulary_of(teacher)
        self.top_k = num_kept(capture, self.vocabulary)
        self._num_asked = None if self.top_k is None else self.top_k + self.vocabulary.num_spare
        vllm = import_vllm()
        super().__init__()
        self._teacher, self._parameters = teacher, import_module("vllm.sampling_params")
        adapter = adapter_settings(teacher)
        self._adapter = adapter_request(teacher)
        try:
            with explained(teacher):
                self._llm = vllm.LLM(**self._model(teacher), **adapter, **self._limits(settings))
            # What vLLM cannot do shows at the first token.
            self._run([_Request([0], {"max_tokens": 1}, 0, lambda answer: None)])
        except BaseException:
            self.close()
            raise
        self.max_length: int = self._llm.llm_engine.model_config.max_model_len

    def generate(self, prompts: Sequence[list[int]], seeds: Sequence[int]) -> list[Written]:
        """One completion of each prompt, in their order; see `Engine`."""
        check_lengths(prompts, self.max_length - 1, "prompt")
        return self._run([self._writing(*pair) for pair in zip(prompts, seeds, strict=True)])

    def score(self, sequences: Sequence[list[int]], spans: Sequence[list[int]]) -> list[Positions]:
        """What the teacher predicts for tokens that are there already; see `Engine`."""
        check_lengths(sequences, self.max_length, "sequence")
        return self._run([self._reading(*pair) for pair in zip(sequences, spans, strict=True)])

    def _model(self, teacher: PretrainedModel) -> dict[str, Any]:
        return {
            "model": teacher.model_name_or_path,
            "revision": teacher.revision,
            "tokenizer_revision": teacher.revision,
            "dtype": dtype_name(teacher),
            **loading_rules(teacher),
            "max_logprobs": self._num_asked or 0,
            "logprobs_mode": "raw_logprobs",
            "use_tqdm_on_load": False,
        }

    def _limits(self, settings: VLLMEngine) -> dict[str, Any]:
        limits: dict[str, Any] = {
            "tensor_parallel_size": settings.tensor_parallel_size,
            "gpu_memory_utilization": settings.gpu_memory_utilization,
            "enforce_eager": settings.enforce_eager or is_without_compiler(),
            "max_model_len": settings.max_model_len,
            "max_num_seqs": settings.max_num_seqs,
        }
        if self.generation is None:
            # Scoring computes the logits of all tokens that are read at once.
            most = min(MAX_TOKENS_AT_ONCE, MAX_LOGITS // self.vocabulary.num_rows)
            limits["max_num_batched_tokens"] = max(most, settings.max_num_seqs or 1024)
        return limits

    def _writing(self, ids: list[int], seed: int) -> _Request[Written]:
        assert self.generation is not None
        longest = min(self.generation.max_completion_length, self.max_length - len(ids))
        settings = sampling(self.generation, self.vocabulary, seed=seed, max_tokens=longest)
        settings["logprobs"] = self._num_asked
        # Text is made of the tokens here; vLLM needs it only to look for stop strings.
        settings["detokenize"] = bool(self.generation.stop)
        return _Request(ids, settings, longest * (self._num_asked or 0), self._written)

    def _written(self, answer: Any) -> Written:
        output = answer.outputs[0]
        positions = None if self.top_k is None else self._positions(*self._rows(output.logprobs))
        return written(
            output.token_ids, output.finish_reason, output.stop_reason, self.vocabulary, positions
        )

    def _reading(self, ids: list[int], spans: list[int]) -> _Request[Positions]:
        assert self._num_asked is not None
        places = of_spans(spans)
        # What follows the last of them is not needed.
        prompt, settings = scoring(ids[: places[-1] + 1], self._num_asked)
        settings["detokenize"] = False

        def read(answer: Any) -> Positions:
            parts = [self._rows(answer.prompt_logprobs), self._rows(answer.outputs[0].logprobs)]
            token_ids, log_probs = (np.concatenate(column) for column in zip(*parts, strict=True))
            # The first token has no row.
            rows = np.asarray(places, np.int64) - 1
            return self._positions(token_ids[rows], log_probs[rows])

        return _Request(prompt, settings, (len(prompt) + 1) * self._num_asked, read)

    def _rows(self, flat: Any) -> tuple[Int[np.ndarray, "p a1"], Float[np.ndarray, "p a1"]]:
        """Tables of vLLM's lists of all positions' entries, one after the other."""
        assert self._num_asked is not None
        shape = (-1, self._num_asked + 1)
        token_ids = np.array(flat.token_ids, np.int32).reshape(shape)
        return token_ids, np.array(flat.logprobs, np.float32).reshape(shape)

    def _positions(
        self, token_ids: Int[np.ndarray, "p a1"], log_probs: Float[np.ndarray, "p a1"]
    ) -> TopKPositions:
        assert self.top_k is not None
        return positions_of_rows(token_ids, log_probs, self.vocabulary.size, self.top_k)

    def _run(self, requests: Sequence[_Request[Read]]) -> list[Read]:
        """Runs them together, as many as `MAX_LOG_PROBS` allows; vLLM batches them as it likes."""
        self._llm.reset_prefix_cache()
        waiting, num_held = deque(enumerate(requests)), 0
        read: dict[int, Read] = {}
        with explained(self._teacher):
            while len(read) < len(requests):
                while waiting and (
                    num_held + waiting[0][1].num_log_probs <= MAX_LOG_PROBS or not num_held
                ):
                    number, request = waiting.popleft()
                    self._add(str(number), request)
                    num_held += request.num_log_probs
                for answer in self._llm.llm_engine.step():
                    number = int(answer.request_id)
                    read[number] = requests[number].read(answer)
                    num_held -= requests[number].num_log_probs
        return [read[number] for number in range(len(requests))]

    def _add(self, name: str, request: _Request[Any]) -> None:
        settings = self._parameters.SamplingParams(
            **request.settings,
            flat_logprobs=True,
            output_kind=self._parameters.RequestOutputKind.FINAL_ONLY,
        )
        prompt = {"prompt_token_ids": request.prompt}
        self._llm.llm_engine.add_request(name, prompt, settings, lora_request=self._adapter)
