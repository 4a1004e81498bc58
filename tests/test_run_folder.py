import os

import pytest

from llmkd.errors import InputError
from llmkd.run_folder import HASHED_BYTES, digest, fingerprint, held, write_atomically


def test_a_fingerprint_does_not_depend_on_the_order_of_keys_but_on_every_value():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1, "b": [1, 2]}) != fingerprint({"a": 1, "b": [2, 1]})


def test_a_digest_sees_content_not_time_and_ignores_the_model_card(tmp_path):
    (tmp_path / "weights").write_bytes(b"abc")
    before = digest(tmp_path)
    (tmp_path / "weights").touch()
    (tmp_path / "README.md").write_text("results are added later")
    assert digest(tmp_path) == before
    (tmp_path / "weights").write_bytes(b"abd")
    assert digest(tmp_path) != before
    assert digest(tmp_path / "hub-name") is None


def test_a_large_file_is_known_by_size_and_time(tmp_path):
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(HASHED_BYTES + 1)
    assert str(HASHED_BYTES + 1) in (digest(large) or "")


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_atomically(path, "old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new" * 10_000)
    assert path.read_text() == "old"


def test_a_held_folder_is_refused_to_another(tmp_path):
    with held(tmp_path), pytest.raises(InputError, match="in use by another run"), held(tmp_path):
        pass
    with held(tmp_path):
        pass


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(
    tmp_path, no_large_files
):
    path = tmp_path / "state.json"
    write_atomically(path, "old")
    with no_large_files(), pytest.raises(OSError, match="File too large"):
        write_atomically(path, "new" * 1000)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_written_through_and_stays_a_link(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("new")
    write_atomically(tmp_path / "link", "text")
    write_atomically(tmp_path / "dangling", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "dangling").is_symlink()
    assert (tmp_path / "file").read_text() == (tmp_path / "new").read_text() == "text"


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "folder", "loop"):
        with pytest.raises(InputError, match="is no file; write another path"):
            write_atomically(tmp_path / name, "text")
    assert (tmp_path / "pipe").is_fifo()
