import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from llmkd.errors import InputError
from llmkd.teacher_data.captured import SampledPositions
from llmkd.teacher_data.store import DamagedStoreError, Store, StoreWriter
from llmkd.teacher_data.store.export import export


@pytest.fixture
def kept(made, tmp_path):
    """Makes and opens a store with a kind of capture."""

    def make(capture):
        made.write_store(tmp_path / "kept", made.make_settings(capture))
        return Store.open(tmp_path / "kept")

    return make


def read(path):
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("capture", ["top_k", None])
def test_texts_and_tokens_are_written_in_order(suffix, capture, kept, tmp_path):
    store, path, told = kept(capture), tmp_path / f"rows{suffix}", []
    export(store, path, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (46, 46)
    for found, row in zip(read(path), store, strict=True):
        names = ("number", "sample", "prompt", "completion", "finish_reason", "spans", "num_cut")
        expected = {name: getattr(row, name) for name in names}
        assert found == expected | {"token_ids": row.token_ids.tolist()}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_top_k_positions_are_written_beside_them(suffix, kept, tmp_path):
    store = kept("top_k")
    export(store, tmp_path / f"rows{suffix}", with_positions=True)
    for found, row in zip(read(tmp_path / f"rows{suffix}"), store, strict=True):
        assert found["positions"].keys() == vars(row.positions).keys()
        for name, value in vars(row.positions).items():
            np.testing.assert_array_equal(np.array(found["positions"][name], value.dtype), value)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_drawn_tokens_are_written_without_padding(suffix, kept, tmp_path):
    store = kept("sampled")
    export(store, tmp_path / f"rows{suffix}", with_positions=True)
    for found, row in zip(read(tmp_path / f"rows{suffix}"), store, strict=True):
        assert isinstance(row.positions, SampledPositions)
        counts, token_ids = found["positions"]["counts"], found["positions"]["token_ids"]
        assert [sum(drawn) for drawn in counts] == [8] * len(row.positions.entropy)
        assert min(min(drawn) for drawn in counts) > 0
        pairs = [dict(zip(t, c, strict=True)) for t, c in zip(token_ids, counts, strict=True)]
        for at_position, ids, kept_counts in zip(
            pairs, row.positions.token_ids, row.positions.counts, strict=True
        ):
            whole = zip(ids.tolist(), kept_counts.tolist(), strict=True)
            assert at_position == {token: count for token, count in whole if count}


def test_a_tail_without_mass_is_null_in_json(made, tmp_path):
    settings = made.make_settings(num_rows=1, num_samples=1)
    (row,) = made.make_rows(settings, [0])
    row.positions.log_probs[:] = np.log(1 / made.TOP_K)
    row.positions.tail_log_prob[:] = -np.inf
    with StoreWriter(tmp_path / "store", settings) as writer:
        writer.write(0, [row])
        writer.finish()
    export(Store.open(tmp_path / "store"), tmp_path / "rows.jsonl", with_positions=True)
    (found,) = read(tmp_path / "rows.jsonl")
    assert set(found["positions"]["tail_log_prob"]) == {None}
    assert "Infinity" not in (tmp_path / "rows.jsonl").read_text()


def test_what_cannot_be_is_refused(kept, tmp_path):
    store = kept(None)
    (tmp_path / "there.jsonl").write_text("old")
    with pytest.raises(
        InputError, match=r"rows.csv is of no known kind; write FILE.jsonl or FILE.parquet"
    ):
        export(store, tmp_path / "rows.csv")
    with pytest.raises(InputError, match=r"there.jsonl is there already; write another path"):
        export(store, tmp_path / "there.jsonl")
    with pytest.raises(InputError, match=r"^--positions: .* keeps text alone; leave it out"):
        export(store, tmp_path / "rows.jsonl", with_positions=True)
    assert (tmp_path / "there.jsonl").read_text() == "old"


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_no_half_file_is_left_of_a_damaged_store_or_on_a_full_disk(
    suffix, kept, tmp_path, no_large_files
):
    store, path = kept("top_k"), tmp_path / f"rows{suffix}"
    with no_large_files(), pytest.raises(OSError, match="File too large"):
        export(store, path, with_positions=True)
    shutil.rmtree(tmp_path / "kept" / "shards")
    with pytest.raises(DamagedStoreError, match="is missing"):
        export(reopened(store), path)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def reopened(store):
    """The store with nothing mapped."""
    store._open.clear()
    return store
