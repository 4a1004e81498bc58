"""The engine that needs nothing but `transformers`: it writes, and scores by the forward pass itself.

Scores are those that a teacher beside the student gives: the same batches, the same head, the same
vocabulary, cut where it only pads.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from llmkd.data.kinds import collator_for
from llmkd.errors import InputError
from llmkd.losses.signals import LinearHead, logits_of
from llmkd.models.kinds import is_seq2seq
from llmkd.models.positions import hard_limit
from llmkd.models.signals import signals
from llmkd.models.vocabulary import check_covers, shared_vocab_size
from llmkd.objective import trained
from llmkd.recipe.models import PretrainedModel
from llmkd.recipe.teacher_data import Capture, Generation, TransformersEngine
from llmkd.teacher_data.capture_logits import joined, of_logits, split, uniforms_of
from llmkd.teacher_data.captured import Positions
from llmkd.teacher_data.engine import Written
from llmkd.teacher_data.store.rows import tokens_key
from llmkd.teacher_data.transformers_engine import Loaded, generate_from_ids, load_for_inference

_LOGITS_BYTES = 64 * 2**20
"""Most memory of the float32 logits that stand at once; a few copies of them are made."""


class TransformersTeacher:
    """Implements `Engine`. The samples of a batch are drawn together, seeded by its first one.

    Args:
        source: The teacher.
        settings: Of the engine.
        generation: How it writes; None where it only scores.
        capture: What is kept of its distributions; None where it only writes.
        load: What loads the model and its tokenizer.

    Raises:
        InputError: Nothing loadable is there, or it has fewer embeddings than its tokenizer tokens.
    """

    def __init__(
        self,
        source: PretrainedModel,
        settings: TransformersEngine,
        generation: Generation | None,
        capture: Capture | None,
        *,
        load: Callable[[PretrainedModel], Loaded] = load_for_inference,
    ):
        self.model, self.tokenizer = load(source)
        self.vocab_size = shared_vocab_size(self.tokenizer)
        check_covers(self.model, self.vocab_size, "teacher")
        self.batch_size = settings.batch_size
        self.generation, self.capture = generation, capture
        self.collate = collator_for(self.model.config, self.tokenizer)

    def generate(self, prompts: Sequence[list[int]], seeds: Sequence[int]) -> list[Written]:
        """See `Engine.generate`."""
        assert self.generation is not None
        written: list[Written] = []
        for start in range(0, len(prompts), self.batch_size):
            batch = prompts[start : start + self.batch_size]
            seed = seeds[start]
            found = generate_from_ids(self.model, self.tokenizer, batch, self.generation, seed=seed)
            written += found if self.capture is None else self._with_positions(batch, found)
        return written

    def _with_positions(
        self, prompts: Sequence[list[int]], written: list[Written]
    ) -> list[Written]:
        pairs = list(zip(prompts, written, strict=True))
        sequences = [[*prompt, *done.token_ids] for prompt, done in pairs]
        spans = [[len(prompt), len(prompt) + done.num_tokens] for prompt, done in pairs]
        return [
            Written(done.token_ids, done.text, done.finish_reason, positions)
            for done, positions in zip(written, self.score(sequences, spans), strict=True)
        ]

    def score(self, sequences: Sequence[list[int]], spans: Sequence[list[int]]) -> list[Positions]:
        """See `Engine.score`."""
        rows = list(zip(sequences, spans, strict=True))
        starts = range(0, len(rows), self.batch_size)
        return [
            positions
            for start in starts
            for positions in self._score(rows[start : start + self.batch_size])
        ]

    def close(self) -> None:
        """See `Engine.close`; the model goes with this object."""

    @torch.inference_mode()
    def _score(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[Positions]:
        self._check_lengths(rows)
        batch = self.collate([{"input_ids": ids, "trained_spans": spans} for ids, spans in rows])
        batch = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
        kept = trained(batch["target_ids"])
        head = signals(self.model, self.model, batch, kept, self.vocab_size)
        assert isinstance(head, LinearHead), "a language model"
        lengths = [sum(spans[1::2]) - sum(spans[::2]) for _, spans in rows]
        return split(self._positions(head, batch["target_ids"][kept], rows, lengths), lengths)

    def _positions(
        self,
        head: LinearHead,
        target_ids: Int[Tensor, " n"],
        rows: Sequence[tuple[list[int], list[int]]],
        lengths: list[int],
    ) -> Positions:
        assert self.capture is not None
        at_once = max(1, _LOGITS_BYTES // (4 * self.vocab_size))
        device, num_positions = target_ids.device, len(target_ids)
        # What is drawn for a sequence depends on nothing else.
        seeds = [int.from_bytes(tokens_key(ids)) for ids, _ in rows]
        uniforms = uniforms_of(self.capture, seeds, lengths)
        parts: list[Positions] = []
        for start in range(0, num_positions, at_once):
            part = torch.arange(start, min(start + at_once, num_positions), device=device)
            numbers = None if uniforms is None else uniforms.to(device)[part]
            parts.append(of_logits(logits_of(head, part), target_ids[part], self.capture, numbers))
        return joined(parts)

    def _check_lengths(self, rows: Sequence[tuple[list[int], list[int]]]) -> None:
        # An encoder and a decoder have positions of their own.
        ends = [spans[0] if is_seq2seq(self.model.config) else 0 for _, spans in rows]
        sides = [max(end, len(ids) - end) for end, (ids, _) in zip(ends, rows, strict=True)]
        limit, longest = hard_limit(self.model), max(sides)
        if limit is not None and longest > limit:
            raise InputError(
                f"data.max_length: a sequence has {longest} tokens, and the teacher has {limit} "
                f"positions; write data.max_length: {limit}"
            )
