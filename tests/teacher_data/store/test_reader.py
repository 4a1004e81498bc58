import pickle
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch.utils.data import DataLoader

from llmkd.teacher_data.store import (
    NoStoreError,
    Store,
    StoreWriter,
    UnknownFormatError,
    reader,
    tokens_key,
)
from llmkd.teacher_data.store.contents import FINISH_REASONS
from llmkd.teacher_data.store.sealed import read_sealed, write_sealed


def keys_of(keys):
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)


@pytest.mark.parametrize("capture", ["top_k", "sampled", None])
@pytest.mark.parametrize("kind", ["generated", "scored"])
def test_rows_come_back_as_they_were_written(capture, kind, made, tmp_path):
    settings = made.make_settings(capture, kind=kind)
    made.write_store(tmp_path, settings)
    store = Store.open(str(tmp_path))
    expected = list(made.make_rows(settings, range(23)))
    assert store.settings == settings
    assert len(store) == store.counts.num_rows == len(expected)
    assert all(map(made.same_row, store, expected))
    for index in np.random.default_rng(0).permutation(len(store)).tolist():
        assert made.same_row(store[index], expected[index])
        assert store[index].token_ids.flags.writeable


@pytest.mark.parametrize("indices", [[17], [45, 0, 17, 0]])
def test_positions_are_those_of_the_rows_in_the_order_asked_for(indices, store, made):
    opened = Store.open(store)
    rows = list(made.make_rows(opened.settings, range(23)))
    for name, values in vars(opened.positions(indices)).items():
        expected = [getattr(rows[index].positions, name) for index in indices]
        assert np.array_equal(values, np.concatenate(expected))


def test_of_text_alone_there_are_no_positions(made, tmp_path):
    made.write_store(tmp_path, made.make_settings(None))
    assert Store.open(tmp_path).positions([3, 1]) is None


def test_the_arrays_for_planning_are_in_the_order_of_the_rows(store):
    opened = Store.open(store)
    assert opened.num_tokens.tolist() == [len(row.token_ids) for row in opened]
    assert opened.num_positions.tolist() == [row.spans[1] - row.spans[0] for row in opened]
    reasons = [FINISH_REASONS[code] for code in opened.finish_reason]
    assert reasons == [row.finish_reason for row in opened]
    assert Counter(reasons) == {"stop": opened.counts.num_stop, "length": opened.counts.num_length}


@pytest.mark.parametrize("index", [46, -1, 10**9])
def test_there_is_no_row_outside(index, store):
    with pytest.raises(IndexError, match=f"row {index} of a store with 46 rows"):
        Store.open(store)[index]


def test_rows_are_found_by_their_tokens(store):
    opened = Store.open(store)
    rows = list(opened)
    order = np.random.default_rng(0).permutation(len(rows))
    wanted = [rows[i].tokens_key for i in order] + [tokens_key([1, 2, 3]), bytes(16), b"\xff" * 16]
    found = opened.find(keys_of(wanted))
    assert found.dtype == np.int64
    assert found.tolist() == [*order.tolist(), -1, -1, -1]
    assert opened.find(keys_of([])).tolist() == []


KEYS = st.lists(st.binary(min_size=2, max_size=2), max_size=8)


@given(kept=KEYS, wanted=KEYS)
def test_find_agrees_with_a_dictionary_whatever_the_bytes(kept, wanted, made, tmp_path_factory):
    """Keys with zeros at either end, of which numpy drops those at the end of text."""

    def padded(ends):
        return [end[:1] + bytes(14) + end[1:] for end in ends]

    folder = tmp_path_factory.mktemp("found")
    settings = made.make_settings(None, num_rows=len(kept), num_samples=1)
    with StoreWriter(folder, settings) as writer:
        for number in list(writer.missing):
            rows = list(made.make_rows(settings, writer.rows_of(number)))
            keys = padded(kept)
            writer.write(number, [replace(row, tokens_key=keys[row.number]) for row in rows])
        writer.finish()
    first = {}
    for row, key in enumerate(padded(kept)):
        first.setdefault(key, row)
    expected = [first.get(key, -1) for key in padded(wanted)]
    assert Store.open(folder).find(keys_of(padded(wanted))).tolist() == expected


def test_of_many_equal_sequences_the_first_is_found(made, tmp_path):
    settings = made.make_settings(None, num_rows=900, rows_per_shard=100, num_samples=1)
    keys = [bytes([number % 3]) * 16 for number in range(900)]
    with StoreWriter(tmp_path, settings) as writer:
        for number in list(writer.missing):
            rows = made.make_rows(settings, writer.rows_of(number))
            writer.write(number, [replace(row, tokens_key=keys[row.number]) for row in rows])
        writer.finish()
    assert Store.open(tmp_path).find(keys_of([keys[2], keys[0], keys[1]])).tolist() == [2, 0, 1]


def test_a_store_goes_through_pickle(store, made):
    opened = Store.open(store)
    first = opened[3]
    again = pickle.loads(pickle.dumps(opened))
    assert made.same_row(again[3], first)
    assert again.settings == opened.settings
    assert len(pickle.dumps(opened)) < 1000


@pytest.mark.parametrize(("num_workers", "start"), [(0, None), (2, "fork"), (1, "spawn")])
def test_workers_of_a_data_loader_read_the_same_rows(num_workers, start, store, made):
    opened = Store.open(store)
    expected = [opened[index] for index in range(len(opened))]
    order = torch.randperm(len(opened), generator=torch.Generator().manual_seed(0)).tolist()
    loader = DataLoader(
        opened, sampler=order, batch_size=7, num_workers=num_workers, collate_fn=list,
        multiprocessing_context=start,
    )  # fmt: skip
    for _ in range(2 if start != "spawn" else 1):
        rows = [row for batch in loader for row in batch]
        assert all(made.same_row(row, expected[i]) for row, i in zip(rows, order, strict=True))


def test_few_shards_are_mapped_at_once_and_none_is_read_through_twice(store, made, monkeypatch):
    monkeypatch.setattr(reader, "OPEN_SHARDS", 2)
    checked = []
    original = reader.open_shard

    def open_shard(path, settings, *, is_checked):
        checked.append((path.name[:6], is_checked))
        return original(path, settings, is_checked=is_checked)

    monkeypatch.setattr(reader, "open_shard", open_shard)
    opened = Store.open(store)
    expected = list(made.make_rows(opened.settings, range(23)))
    for index in [0, 10, 0, 20, 0, 9, 30, 0, 20, 45]:
        assert made.same_row(opened[index], expected[index])
        assert len(opened._open) <= 2
    # 20 puts out the shard of 10, 30 that of 20, and 20 that of 30: always the one unused longest.
    numbers = [f"00000{number}" for number in (0, 1, 2, 3, 2, 4)]
    assert checked == list(zip(numbers, [False, False, False, False, True, False], strict=True))


def test_no_file_stays_open(store):
    before = len([*Path("/proc/self/fd").iterdir()])
    opened = Store.open(store)
    rows = list(opened)
    assert len([*Path("/proc/self/fd").iterdir()]) == before
    assert len(rows) == 46


def test_what_is_no_store_is_refused(tmp_path):
    (tmp_path / "file").write_text("text")
    for folder in (tmp_path, tmp_path / "none", tmp_path / "file"):
        with pytest.raises(NoStoreError, match=r"is no teacher store; write the folder of one"):
            Store.open(folder)


def test_a_manifest_of_another_format_is_refused(store):
    write_sealed(store / "manifest.json", read_sealed(store / "manifest.json") | {"format": 2})
    with pytest.raises(UnknownFormatError, match="has format 2, and this version of llmkd reads"):
        Store.open(store)


def test_reading_a_store_imports_no_torch(store):
    program = (
        "import sys; from llmkd.teacher_data.store import Store, StoreWriter;"
        "import llmkd.teacher_data.store.verify, llmkd.teacher_data.store.merge,"
        "llmkd.teacher_data.store.overview, llmkd.teacher_data.store.export;"
        f"list(Store.open({str(store)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
