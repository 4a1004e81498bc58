from dataclasses import asdict

import pytest

from llmkd.teacher_data.store import DamagedStoreError, NoStoreError
from llmkd.teacher_data.store.overview import inspect


def test_a_whole_store_tells_settings_counts_and_sizes(made, tmp_path):
    settings = made.make_settings()
    counts = made.write_store(tmp_path, settings)
    found = inspect(tmp_path)
    assert found["is_finished"] is True
    assert found["settings"] == asdict(settings)
    assert found["fingerprint"] == settings.fingerprint
    assert (found["num_shards"], found["missing_shards"]) == (5, [])
    assert found["counts"] == asdict(counts)
    sizes = found["sizes"]
    assert sizes["bytes_per_token"] * counts.num_tokens == pytest.approx(counts.num_bytes, 1e-4)
    assert sizes["bytes_per_position"] * counts.num_positions == pytest.approx(
        counts.num_bytes, 1e-4
    )
    payload = sizes["payload_bytes_per_position"] * counts.num_positions
    assert payload == pytest.approx(counts.num_payload_bytes, 1e-4)


def test_a_part_tells_what_it_lacks(made, tmp_path):
    made.write_store(tmp_path, made.make_settings(), (1, 2))
    found = inspect(tmp_path)
    assert found["is_finished"] is False
    assert found["missing_shards"] == [0, 2, 4]
    assert "counts" not in found


def test_a_store_without_rows_has_no_sizes(made, tmp_path):
    made.write_store(tmp_path, made.make_settings(num_rows=0))
    assert set(inspect(tmp_path)["sizes"].values()) == {None}


def test_no_store_and_a_damaged_manifest_are_refused(store, tmp_path):
    with pytest.raises(NoStoreError):
        inspect(tmp_path / "none")
    (store / "manifest.json").write_text("{}")
    with pytest.raises(DamagedStoreError, match=r"manifest.json: is damaged"):
        inspect(store)
