"""From a recipe's `data` to what a trainer reads: tokenized, mixed, packed or streamed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from sys import maxsize

import datasets
import numpy as np
from jaxtyping import Int
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from llmkd.data.cache import tokenized
from llmkd.data.counts import DataCounts, SourceCount
from llmkd.data.packing import PackedExamples
from llmkd.data.rationale import refuse_no_rationale, with_rationales
from llmkd.data.sources import iter_rows
from llmkd.data.stream import ExampleStream
from llmkd.data.tokenize import Example, Tokenize
from llmkd.progress import Progress
from llmkd.recipe.data import (
    AdditionTask,
    CompletionTask,
    DatasetRows,
    DatasetSource,
    Mixture,
    NamedIntentTask,
    SequenceLengths,
    Sequences,
    StoreRows,
    TrainedAddition,
)
from llmkd.recipe.rationale import StepByStep

Part = CompletionTask | DatasetRows | StoreRows
RowNumbers = list[np.ndarray]
"""Of each source, the rows that are taken."""
Tokenizing = Callable[[PreTrainedTokenizerBase, Sequences], Tokenize]
UNCUT = Sequences(max_length=maxsize)
"""A procedural task's examples are as long as they are."""


@dataclass(frozen=True)
class TrainingData:
    """What a trainer reads.

    Args:
        dataset: Rows for `llmkd.data.collate.Collator`.
        lengths: Tokens of each of them; None where the data is streamed.
        counts: What became of the data; of a stream, so far.
        sequences: The recipe's settings.
        longest: Most tokens that a model reads at once; of a stream, the most that it may.
    """

    dataset: datasets.Dataset | Dataset
    lengths: list[int] | None
    counts: DataCounts
    sequences: Sequences
    longest: int


def prepare(
    source: CompletionTask | DatasetSource | Mixture | StoreRows,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    progress: Progress,
    tokenizing: Tokenizing = Tokenize,
) -> TrainingData:
    """Reads and tokenizes what a train stage of language models is trained on.

    Args:
        source: With `stage:NAME` already replaced by paths.
        tokenizer: The student's.
        seed: Decides a procedural task's rows, what is drawn for a mixture, and a stream's order.
        progress: Called with (done, total) rows while they are tokenized.
        tokenizing: What the student's kind makes of rows.

    Raises:
        InputError: Rows that cannot be used, or none with a token to train on.
    """
    sequences = _sequences(source)
    parts: list[Part] = [*source.sources] if isinstance(source, Mixture) else [source]
    rationale = sequences.rationale

    def begin() -> Tokenize:
        return with_rationales(tokenizing(tokenizer, sequences), rationale)

    if sequences.streaming:
        return _streamed(parts, begin, sequences, seed)
    counts = DataCounts()
    found: list[datasets.Dataset] = []
    for part in parts:
        examples, num_dropped = tokenized(part, begin(), seed=seed, progress=progress)
        counts.num_dropped += num_dropped
        found.append(examples)
    chosen = _chosen(source, found, seed, counts) if isinstance(source, Mixture) else None
    column = partial(_numbers, found, chosen)
    length = column("length")
    counts.add(length, column("num_trained"), column("num_cut"))
    if isinstance(rationale, StepByStep):
        counts.num_without_rationale = int((column("rationale_start") == length).sum())
        refuse_no_rationale(counts.num_without_rationale, len(length))
    examples = found[0] if chosen is None else _selected(found, chosen)
    dataset: datasets.Dataset | Dataset = examples
    lengths: list[int] = length.tolist()
    if sequences.packing:
        dataset = PackedExamples(examples, lengths, sequences.max_length)
        lengths = dataset.lengths
    counts.num_sequences = len(lengths)
    longest = int(begin().num_read(column).max(initial=0))
    return TrainingData(dataset, lengths, counts, sequences, longest)


def _sequences(source: CompletionTask | DatasetSource | Mixture | StoreRows) -> Sequences:
    match source:
        case AdditionTask():
            rationale = source.rationale if isinstance(source, TrainedAddition) else None
            return UNCUT.model_copy(update={"rationale": rationale})
        case NamedIntentTask():
            return UNCUT
        case StoreRows():
            # They have been tokenized, ended and masked before.
            return Sequences(**source.model_dump(include={*SequenceLengths.model_fields}))
        case sequences:
            return sequences


def _streamed(
    parts: list[Part], begin: Callable[[], Tokenize], sequences: Sequences, seed: int
) -> TrainingData:
    counts = DataCounts()

    for part in parts:
        # What cannot be read at all is found before the first step.
        next(_read(part, begin(), seed), None)

    def examples(part: Part) -> Iterator[Example]:
        tokenize, num_dropped = begin(), 0
        for example in _read(part, tokenize, seed):
            counts.num_dropped += tokenize.num_dropped - num_dropped
            num_dropped = tokenize.num_dropped
            yield example
        tokenize.refuse_nothing()

    stream = ExampleStream(
        [partial(examples, part) for part in parts],
        [getattr(part, "weight", 1.0) for part in parts],
        seed=seed,
        packed_length=sequences.max_length if sequences.packing else None,
        counts=counts,
    )
    return TrainingData(stream, None, counts, sequences, sequences.max_length)


def _read(part: Part, tokenize: Tokenize, seed: int) -> Iterator[Example]:
    return tokenize(iter_rows(part, seed=seed, need=tokenize.need, is_stream=True))


def _numbers(
    parts: list[datasets.Dataset], chosen: RowNumbers | None, column: str
) -> Int[np.ndarray, " rows"]:
    """A column of all chosen rows; straight from the file, since by rows it takes minutes."""
    whole = [part.data.column(column).to_numpy() for part in parts]
    if chosen is None:
        return whole[0]
    return np.concatenate([values[rows] for values, rows in zip(whole, chosen, strict=True)])


def _selected(parts: list[datasets.Dataset], chosen: RowNumbers) -> datasets.Dataset:
    """In the order of the parts: the order does not matter, it is shuffled."""
    return datasets.concatenate_datasets(
        [part.select(rows) for part, rows in zip(parts, chosen, strict=True)]
    )


def _chosen(
    mixture: Mixture, parts: list[datasets.Dataset], seed: int, counts: DataCounts
) -> RowNumbers:
    """Which rows of each part: as many as its weight says."""
    wanted = rows_of_parts([len(part) for part in parts], _weights(mixture), mixture.num_examples)
    draw = np.random.default_rng(seed)
    for part, source, num_rows in zip(parts, mixture.sources, wanted, strict=True):
        name = source.task if isinstance(source, AdditionTask) else source.dataset_name
        counts.sources.append(SourceCount(name, len(part), num_rows))
    return [
        _repeated(len(part), num_rows, draw) for part, num_rows in zip(parts, wanted, strict=True)
    ]


def _weights(mixture: Mixture) -> list[float]:
    return [source.weight for source in mixture.sources]


def rows_of_parts(available: list[int], weights: list[float], total: int | None) -> list[int]:
    """How many rows each part gives: its share of the total, rounded so that they add up to it.

    Args:
        available: Rows that each part has.
        weights: Shares, up to a common factor.
        total: Rows in all; None takes the most that repeats no row.
    """
    shares = np.asarray(weights) / sum(weights)
    if total is None:
        total = int(np.floor((np.asarray(available) / shares).min() + 1e-9))
    exact = shares * total
    whole = np.floor(exact + 1e-9).astype(int)
    # The largest remainders get what is left.
    for index in np.argsort(whole - exact, kind="stable")[: total - int(whole.sum())]:
        whole[index] += 1
    return whole.tolist()


def _repeated(available: int, wanted: int, draw: np.random.Generator) -> Int[np.ndarray, " rows"]:
    """Indices of rows: all of them as often as they fit, and the rest at random, each once."""
    times, rest = divmod(wanted, available)
    drawn = np.sort(draw.permutation(available)[:rest])
    return np.concatenate([np.tile(np.arange(available), times), drawn])
