"""A teacher behind `vllm serve`, asked over HTTP for text and for top-k log-probabilities.

Each completion has a seed of its own. What vLLM does not promise: that it has the same tokens
whatever else the server is doing, since sums are rounded differently in batches of another size, and
now and then a near tie falls the other way.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from llmkd.recipe.models import PretrainedModel
from llmkd.recipe.teacher_data import Capture, Generation, ServerEngine
from llmkd.teacher_data.captured import Positions, TopKPositions
from llmkd.teacher_data.engine import Written
from llmkd.teacher_data.server_checks import check_is_adapter, check_server
from llmkd.teacher_data.server_client import Request, ServerClient
from llmkd.teacher_data.vllm_log_probs import of_spans, positions_of_rows, rows_of_mappings
from llmkd.teacher_data.vllm_requests import (
    check_lengths,
    num_kept,
    sampling,
    scoring,
    vocabulary_of,
    written,
)
from llmkd.teacher_data.vllm_server import Choice, VLLMServer, generated, prompted

MAX_LOG_PROBS = 2**22
"""Log-probabilities that may be on their way at once, of about 200 bytes each as JSON and Python
objects. A sequence that has more goes by itself."""

Read = TypeVar("Read")


class ServedVLLM:
    """An engine (`llmkd.teacher_data.engine.Engine`) that asks a running `vllm serve`.

    Args:
        teacher: Its tokenizer and configuration are read here; its weights, and its adapter's, are the
            server's affair.
        settings: Where the server is, and how patiently it is asked.
        generation: How text is sampled; None for scoring.
        capture: What is kept of the distributions; None keeps text only.
        client: Asks the server; None makes one.
        key: Where a recipe has the settings, for messages.

    Raises:
        InputError: Something that vLLM cannot do, or that this server does otherwise.
        LlmkdError: It gives no answer.
    """

    def __init__(
        self,
        teacher: PretrainedModel,
        settings: ServerEngine,
        generation: Generation | None,
        capture: Capture | None,
        client: ServerClient | None = None,
        key: str = "engine",
    ):
        self.generation = generation
        self.vocabulary = vocabulary_of(teacher)
        self.top_k = num_kept(capture, self.vocabulary)
        self._num_asked = None if self.top_k is None else self.top_k + self.vocabulary.num_spare
        self._max_concurrency = settings.max_concurrency
        client = client or ServerClient(settings, key=key)
        try:
            self._server = VLLMServer(settings, client)
            if teacher.adapter_name_or_path is not None:
                check_is_adapter(self._server)
            check_server(self._server, self.vocabulary, self.top_k)
        except BaseException:
            client.close()
            raise

    def generate(self, prompts: Sequence[list[int]], seeds: Sequence[int]) -> list[Written]:
        """One completion of each prompt, in their order; see `Engine`."""
        assert self.generation is not None
        check_lengths(prompts, self._room(1), "prompt")
        requests = [self._writing(*pair) for pair in zip(prompts, seeds, strict=True)]
        return self._ask(requests, self.generation.max_completion_length)

    def score(self, sequences: Sequence[list[int]], spans: Sequence[list[int]]) -> list[Positions]:
        """What the teacher predicts for tokens that are there already; see `Engine`."""
        check_lengths(sequences, self._room(0), "sequence")
        requests = [self._reading(*pair) for pair in zip(sequences, spans, strict=True)]
        return self._ask(requests, max(map(len, sequences), default=0))

    def close(self) -> None:
        """Closes the connections; the server runs on."""
        self._server.close()

    def _room(self, num_tokens: int) -> int | None:
        """Tokens that fit beside so many others."""
        return None if self._server.max_length is None else self._server.max_length - num_tokens

    def _writing(self, ids: list[int], seed: int) -> Request[Written]:
        assert self.generation is not None
        longest, room = self.generation.max_completion_length, self._room(len(ids))
        max_tokens = longest if room is None else min(longest, room)
        settings = sampling(self.generation, self.vocabulary, seed=seed, max_tokens=max_tokens)
        return self._server.completion(ids, settings | {"logprobs": self._num_asked}, self._written)

    def _written(self, choice: Choice) -> Written:
        ids = choice["token_ids"]
        positions = None if self.top_k is None else self._positions(ids, generated(choice))
        reasons = choice["finish_reason"], choice["stop_reason"]
        return written(ids, *reasons, self.vocabulary, positions)

    def _reading(self, ids: list[int], spans: list[int]) -> Request[Positions]:
        assert self._num_asked is not None
        places = of_spans(spans)
        # What follows the last of them is not needed.
        prompt, settings = scoring(ids[: places[-1] + 1], self._num_asked)

        def read(choice: Choice) -> Positions:
            mappings = [*prompted(choice), *generated(choice)]
            # The first token has none.
            chosen = [mappings[place - 1] for place in places]
            return self._positions([ids[place] for place in places], chosen)

        return self._server.completion(prompt, settings, read)

    def _positions(
        self, labels: list[int], mappings: Sequence[Mapping[int, float]]
    ) -> TopKPositions:
        assert self.top_k is not None
        assert self._num_asked is not None
        rows = rows_of_mappings(labels, mappings, self._num_asked)
        return positions_of_rows(*rows, self.vocabulary.size, self.top_k)

    def _ask(self, requests: Sequence[Request[Read]], longest: int) -> list[Read]:
        largest = max(longest * (self._num_asked or 0), 1)
        most = max(MAX_LOG_PROBS // largest, 1)
        return self._server.ask(requests, min(most, self._max_concurrency))
