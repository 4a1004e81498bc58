"""Rationales as targets: beside the completion, as a second task, or before it.

Distilling step-by-step makes two sequences of a row, and they stay together: a row is one example,
drawn as one, whose two sequences are in the same batch.

    prompt behind prompt_prefix        -> completion     part 0
    prompt behind rationale.prefix     -> rationale      part 1

`part_ids` of a batch says at every position which of the two its target is of, so that the objective
can give each part a mean of its own.

References:
    Hsieh et al. 2023, https://arxiv.org/abs/2305.02301, equations 2 to 4.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from llmkd.data.columns import Need
from llmkd.data.tokenize import SCHEMA, Example, Tokenize
from llmkd.errors import InputError
from llmkd.recipe.rationale import ChainOfThought, Part, Rationale, StepByStep
from llmkd.teacher_data.store.rows import tokens_key

PART_IDS = "part_ids"
"""Of a batch: which part of its row each position's target is of, the shape of `target_ids`."""
PARTS: tuple[Part, ...] = get_args(Part)
"""The parts by their id."""
Row = dict[str, Any]


def with_rationales(tokenize: Tokenize, rationale: Rationale | None) -> Tokenize:
    """What makes examples of rows that have a rationale too; as it is where none is wanted."""
    match rationale:
        case None:
            return tokenize
        case StepByStep():
            return StepByStepTokenize(tokenize, rationale)
        case ChainOfThought():
            return ChainOfThoughtTokenize(tokenize, rationale)


def refuse_no_rationale(num_without: int, num_rows: int) -> None:
    """Raises InputError where no row has a rationale to be learned from."""
    if num_without == num_rows:
        raise InputError(
            f"data.rationale: none of {num_rows} rows has a rationale; write data that has them, or "
            "leave `rationale` out"
        )


@dataclass(frozen=True)
class TwoTasks(Example):
    """One row as two sequences, the second behind the first."""

    rationale_start: int
    """Where the second begins; `length` where the row has no rationale."""
    num_read: int
    """Tokens of the longer sequence, as a model reads it."""


class StepByStepTokenize(Tokenize):
    """Turns rows into `TwoTasks`.

    Args:
        inner: Makes an example of a prompt and a target.
        rationale: The recipe's.
    """

    need: Need = "rationale"
    schema = SCHEMA.append(pa.field("rationale_start", pa.int32())).append(
        pa.field("num_read", pa.int32())
    )

    def __init__(self, inner: Tokenize, rationale: StepByStep):
        super().__init__(inner.tokenizer, inner.sequences)
        self.inner = inner
        self.prefix = rationale.prefix
        self.form = f"{inner.form}, {rationale.model_dump()}"

    def num_read(self, column: Callable[[str], Any]) -> Any:
        """Tokens of the longer sequence, as a model reads it."""
        return column("num_read")

    def examples_of(self, rows: list[Row]) -> Iterator[TwoTasks | None]:
        """As of any rows; one that has no token of its completion left is left out."""
        pairs = [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows]
        explained = [
            {"prompt": self.prefix + row["bare_prompt"], "completion": row["rationale"]}
            for row in rows
            if row["rationale"] is not None
        ]
        rationales = iter(self.inner.examples_of(explained) if explained else [])
        for row, answer in zip(rows, self.inner.examples_of(pairs), strict=True):
            rationale = None if row["rationale"] is None else next(rationales)
            yield None if answer is None else self._joined(answer, rationale)

    def _joined(self, answer: Example, rationale: Example | None) -> TwoTasks:
        both = [answer] if rationale is None else [answer, rationale]
        ids = [token for example in both for token in example.input_ids]
        spans = [*answer.trained_spans]
        if rationale is not None:
            spans += [answer.length + edge for edge in rationale.trained_spans]
        return TwoTasks(
            ids,
            spans,
            len(ids),
            sum(example.num_trained for example in both),
            sum(example.num_cut for example in both),
            tokens_key(ids),
            answer.length,
            max(int(self.inner.num_read(partial(getattr, example))) for example in both),
        )


class ChainOfThoughtTokenize(Tokenize):
    """Turns rows into examples whose target is the rationale, the separator and the completion.

    Args:
        inner: Makes an example of a prompt and a target.
        rationale: The recipe's.
    """

    need: Need = "rationale"

    def __init__(self, inner: Tokenize, rationale: ChainOfThought):
        super().__init__(inner.tokenizer, inner.sequences)
        self.inner = inner
        self.separator = rationale.separator
        self.form = f"{inner.form}, {rationale.model_dump()}"

    def num_read(self, column: Callable[[str], Any]) -> Any:
        """As of any example."""
        return self.inner.num_read(column)

    def examples_of(self, rows: list[Row]) -> Iterable[Example | None]:
        """As of any rows."""
        return self.inner.examples_of([self._chained(*row) for row in enumerate(rows, 1)])

    def _chained(self, number: int, row: Row) -> Row:
        if row["rationale"] is None:
            raise InputError(
                f"data: row {self.num_rows + number} has no `rationale`, which comes before its "
                "completion; write one, or leave the row out"
            )
        target = row["rationale"] + self.separator + row["completion"]
        return {"prompt": row["prompt"], "completion": target}


@dataclass(frozen=True)
class WithParts:
    """Makes batches that hold both sequences of every row, and `part_ids`.

    Args:
        collate: Makes a batch of examples.
    """

    collate: Callable[[list[Any]], dict[str, Tensor]]

    def __call__(self, rows: list[Any]) -> dict[str, Tensor]:
        """The batch of up to two sequences per row, a row's side by side."""
        sequences = [sequence for row in rows for sequence in _sequences(row)]
        batch = self.collate([sequence for _, sequence in sequences])
        parts = torch.tensor([part for part, _ in sequences])
        return batch | {PART_IDS: parts[:, None].expand_as(batch["target_ids"]).contiguous()}


def _sequences(row: Mapping[str, Any]) -> Iterator[tuple[int, Row]]:
    """The examples that `TwoTasks` is made of, each behind its part."""
    ids, spans, start = row["input_ids"], np.asarray(row["trained_spans"]), row["rationale_start"]
    for part, (own, edges) in enumerate(
        [(ids[:start], spans[:2]), (ids[start:], spans[2:] - start)]
    ):
        if len(own):
            key = tokens_key(list(map(int, own)))
            yield part, {"input_ids": own, "trained_spans": edges.tolist(), "tokens_key": key}
