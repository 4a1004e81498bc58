"""What a model answers to lm-eval's requests, kept as it comes, so that a killed evaluation goes on.

A line of the file is a whole batch. lm-eval sorts requests by length before it cuts batches, so those
that are left fall into the batches that they would have been in: the numbers have the same bits.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import hash_args
from lm_eval.models.utils import normalize_gen_kwargs

from llmkd.evaluation.kept import Kept
from llmkd.evaluation.measured import refuse_nan
from llmkd.progress import Progress

Answer = Any
"""A log-likelihood with whether it is greedy, or a text."""


class KeptRequests:
    """The answers that are there, and those that come; lm-eval calls `add_partial` with each.

    Args:
        kept: Where they are kept, a batch as one.
        progress: Called with (done, total) requests.
        task: Its name.
    """

    def __init__(self, kept: Kept, progress: Progress, task: str):
        self.kept, self.task = kept, task
        self.progress = progress
        self.answers: dict[str, list[Answer]] = defaultdict(list)
        self._batch: list[tuple[str, Answer]] = []
        self._num_done, self._num_asked = 0, 0
        for batch in kept.in_order():
            self._take(batch["requests"])

    def add_partial(self, kind: str, args: Sequence[Any], answer: Answer) -> None:
        """Takes an answer of the batch that is being worked on."""
        if kind == "generate_until" and is_sampled(args[1]):
            return
        self._batch.append((_key(kind, args), answer))

    def flush(self) -> None:
        """Keeps the batch, which is now whole."""
        if self._batch:
            refuse_nan(
                chain.from_iterable(_numbers(answer) for _, answer in self._batch), self.task
            )
            self.kept.add({len(self.kept.answers): {"requests": self._batch}})
            self._take(self._batch)
            self._batch = []

    def ask(
        self, kind: str, requests: list[Instance], ask: Callable[[list[Instance]], list[Answer]]
    ) -> list[Answer]:
        """All answers, of which the model is asked those that are not there.

        Of equal requests, each has an answer of its own.
        """
        self._num_asked = len(requests)
        seen: Counter[str] = Counter()
        found: list[Answer] = []
        left: list[int] = []
        for number, request in enumerate(requests):
            key = _key(kind, request.args)
            there = self.answers[key]
            is_there = seen[key] < len(there)
            found.append(there[seen[key]] if is_there else None)
            seen[key] += 1
            if not is_there:
                left.append(number)
        new = ask([requests[number] for number in left]) if left else []
        self.flush()
        for number, answer in zip(left, new, strict=True):
            found[number] = answer
        return found

    def ask_windows(self, windows: Sequence[Any], ask: Callable[[], list[Answer]]) -> list[Answer]:
        """The log-likelihoods of one batch of windows, which are of several texts."""
        key = hash_args("windows", [window[1:] for window in windows])
        if key not in self.answers:
            self._batch.append((key, ask()))
            self.flush()
        return [tuple(answer) for answer in self.answers[key][0]]

    def _take(self, batch: Sequence[Sequence[Any]]) -> None:
        for key, answer in batch:
            # JSON has no tuples.
            self.answers[key].append(tuple(answer) if isinstance(answer, list) else answer)
        self._num_done += len(batch)
        if self._num_asked:
            self.progress(min(self._num_done, self._num_asked), self._num_asked)


def _key(kind: str, args: Sequence[Any]) -> str:
    """Of texts, what they continue alone: vLLM's settings come back with more in them."""
    return hash_args(kind, args[:1] if kind == "generate_until" else args)


def _numbers(answer: Answer) -> list[float]:
    """The log-likelihoods of an answer: one with whether it is greedy, several such, or none."""
    parts = [answer] if isinstance(answer, tuple) else answer if isinstance(answer, list) else []
    return [float(part[0]) for part in parts]


def is_sampled(generation_kwargs: dict[str, Any]) -> bool:
    """Whether answers are drawn. They are not kept: the rest alone would be drawn otherwise."""
    return bool(normalize_gen_kwargs(generation_kwargs).get("do_sample"))
