"""`llmkd cache` on a small store."""

import json

import numpy as np
import pytest

from llmkd.teacher_data.captured import TopKPositions
from llmkd.teacher_data.store import StoreRow, StoreSettings, StoreWriter, tokens_key

SETTINGS = StoreSettings(
    kind="generated", teacher="a/teacher", teacher_digest="0", tokenizer_digest="1", vocab_size=9,
    engine="transformers", seed=0, data_digest="2", num_rows=6, rows_per_shard=2,
    sampling={"temperature": 1.0}, capture={"kind": "top_k", "top_k": 2, "temperature": 1.0},
)  # fmt: skip


def row(number):
    half = np.full((2, 2), np.log(0.25), np.float32)
    positions = TopKPositions(np.int32([[1, 4], [2, 3]]), half, 2 * half[0] / 2, half[0])
    ids = np.int32([number, 5, 6])
    return StoreRow(
        number, 0, tokens_key(ids), ids, [1, 3], 0, f"prompt {number}", "text", "stop", positions
    )


def write(folder, share=(0, 1)):
    with StoreWriter(folder, SETTINGS, share) as writer:
        for number in list(writer.missing):
            writer.write(number, map(row, writer.rows_of(number)))
        writer.finish()


@pytest.fixture
def store(llmkd):
    write(llmkd.folder / "store")
    return llmkd.folder / "store"


def test_inspect_tells_settings_and_counts(llmkd, store):
    out, err = llmkd.run("cache", "inspect", "store")
    assert "teacher: a/teacher" in out
    assert "num_rows: 6" in out
    assert err == ""
    out, _ = llmkd.run("cache", "inspect", "store", "--json")
    found = json.loads(out)
    assert found["settings"]["capture"]["top_k"] == 2
    assert found["counts"]["num_positions"] == 12


def test_verify_ends_with_1_and_names_what_is_damaged(llmkd, store):
    out, err = llmkd.run("cache", "verify", "store")
    assert out == "store: every byte is as it was written\n"
    assert "verify store  3/3" in err
    path = next((store / "shards").glob("000001-*"))
    path.write_bytes(path.read_bytes()[:-20])
    out, err = llmkd.run("cache", "verify", "store", "--quiet", status=1)
    assert out == f"shards/{path.name}: is damaged (rows 2 to 3 of the data)\n"
    assert err == (
        "store: 1 of its files are damaged or missing; `llmkd cache repair store` makes them again\n"
    )
    out, _ = llmkd.run("cache", "verify", "store", "--json", status=1)
    assert json.loads(out)["damaged"] == [
        {
            "path": f"shards/{path.name}",
            "what": "is damaged",
            "shard": 1,
            "first_row": 2,
            "last_row": 3,
        }
    ]


def test_merge_joins_parts_and_says_what_is_missing(llmkd, store):
    for share in range(2):
        write(llmkd.folder / f"part-{share}", (share, 2))
    _, err = llmkd.run("cache", "merge", "part-1", "--output", "merged", status=2)
    assert err.startswith("PART: 2 of 3 shards are in no part: 0 (rows 0 to 1 of the data), 2 (")
    out, _ = llmkd.run("cache", "merge", "part-1", "part-0", "--output", "merged", "--json")
    assert json.loads(out)["counts"]["num_rows"] == 6
    manifests = [
        (llmkd.folder / name / "manifest.json").read_bytes() for name in ("merged", "store")
    ]
    assert manifests[0] == manifests[1]


def test_export_writes_rows(llmkd, store):
    out, _ = llmkd.run(
        "cache", "export", "store", "--output", "rows.jsonl", "--positions", "--json"
    )
    assert json.loads(out) == {"output": "rows.jsonl", "num_rows": 6}
    rows = [json.loads(line) for line in (llmkd.folder / "rows.jsonl").read_text().splitlines()]
    assert [found["prompt"] for found in rows] == [f"prompt {number}" for number in range(6)]
    assert rows[0]["positions"]["token_ids"] == [[1, 4], [2, 3]]
    _, err = llmkd.run("cache", "export", "store", "--output", "rows.jsonl", status=2)
    assert err == "--output: rows.jsonl is there already; write another path, or move it\n"


@pytest.mark.parametrize("name", ["inspect", "verify", "export"])
def test_what_is_no_store_ends_with_2(name, llmkd):
    more = ["--output", "rows.jsonl"] if name == "export" else []
    _, err = llmkd.run("cache", name, "none", *more, status=2)
    assert err.splitlines()[-1].startswith("none: is no teacher store; write the folder of one")
    assert not (llmkd.folder / "none").exists()
