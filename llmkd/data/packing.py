"""Several examples in one sequence: best-fit packing.

Each example, longest first, goes into the fullest sequence that still has room for it. None is cut,
and none sees another: attention and positions start over with each (`llmkd.data.collate`).

References:
    Ding et al. 2024, "Fewer Truncations Improve Language Modeling",
    https://arxiv.org/abs/2404.10830, section 2. There, documents longer than a sequence are split
    into several; here they have been cut to `max_length` before.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from torch.utils.data import Dataset

Packed = dict[str, list[Any]]


def best_fit(lengths: Sequence[int], max_length: int) -> list[list[int]]:
    """Which examples share a sequence, by index; deterministic, in O(n log n).

    Args:
        lengths: Tokens of each example, none above `max_length`.
        max_length: Most tokens of a sequence.
    """
    sequences: list[list[int]] = []
    with_room: dict[int, list[int]] = {}
    # Bit r is set where some sequence has room for exactly r more tokens.
    rooms = 0
    for index in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        length = lengths[index]
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            place = with_room[room].pop()
            rooms ^= (not with_room[room]) << room
            sequences[place].append(index)
        else:
            room, place = max_length, len(sequences)
            sequences.append([index])
        with_room.setdefault(room - length, []).append(place)
        rooms |= 1 << (room - length)
    return sequences


def joined(examples: Sequence[Mapping[str, Any]]) -> Packed:
    """One sequence of several examples, with the length of each and its `tokens_key`."""
    packed: Packed = {
        "input_ids": [],
        "trained_spans": [],
        "document_lengths": [],
        "tokens_keys": [],
    }
    for example in examples:
        start = len(packed["input_ids"])
        packed["trained_spans"] += [start + edge for edge in example["trained_spans"]]
        packed["input_ids"].extend(map(int, example["input_ids"]))
        packed["document_lengths"].append(len(example["input_ids"]))
        packed["tokens_keys"].append(example["tokens_key"])
    return packed


class PackedExamples(Dataset):
    """The examples of a data set, joined as `best_fit` says."""

    def __init__(self, examples: datasets.Dataset, lengths: Sequence[int], max_length: int):
        self.examples = examples
        self.sequences = best_fit(lengths, max_length)
        self.lengths = [sum(lengths[i] for i in sequence) for sequence in self.sequences]

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> Packed:
        return joined([self.examples[i] for i in self.sequences[index]])
