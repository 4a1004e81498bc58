import math
from itertools import pairwise

import numpy as np
import pytest

from llmkd.data.counts import DataCounts
from llmkd.report.sections import length_bars


def test_bars_of_row_lengths_leave_out_edges_that_nothing_was_counted_under():
    counts = DataCounts()
    lengths = np.array([3, 12, 12, 40, 42, 1000])
    counts.add(lengths, lengths, np.zeros_like(lengths))
    bars = length_bars(sorted(counts.lengths.items()))
    assert sum(rows for *_, rows in bars) == 6
    for length in lengths:
        # The bar that holds it is narrow, and what lies between two such bars is empty.
        (found,) = [bar for bar in bars if bar[0] < length <= bar[1]]
        assert found[2] > 0
        assert found[1] / found[0] < 1.6
    assert all(before[1] == after[0] for before, after in pairwise(bars))


def test_neighbouring_edges_share_their_border():
    assert length_bars([(32, 5), (45, 3), (64, 2)]) == [
        (pytest.approx(32 / math.sqrt(2)), 32, 5), (32, 45, 3), (45, 64, 2),
    ]  # fmt: skip
    assert length_bars([]) == []
