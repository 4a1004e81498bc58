import os
import random
import shutil

import pytest

from llmkd.errors import InputError
from llmkd.teacher_data.store import DamagedStoreError, NoStoreError, OtherSettingsError
from llmkd.teacher_data.store.merge import merge


@pytest.fixture
def parts(made, tmp_path):
    for share in range(3):
        made.write_store(tmp_path / f"part-{share}", made.make_settings(), (share, 3))
    return [tmp_path / f"part-{share}" for share in range(3)]


def test_the_parts_make_the_store_that_one_process_makes(parts, store, made, tmp_path):
    before = [made.content(part) for part in parts]
    counts = merge(random.Random(0).sample(parts, 3), tmp_path / "merged")
    assert made.content(tmp_path / "merged") == made.content(store)
    assert counts.num_rows == 46
    assert [made.content(part) for part in parts] == before


def test_shards_are_links_where_that_is_possible_and_else_copies(
    parts, store, made, tmp_path, monkeypatch
):
    merge(parts, tmp_path / "linked")
    assert {path.stat().st_nlink for path in (tmp_path / "linked" / "shards").iterdir()} == {2}

    def refuse(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    merge(parts, tmp_path / "copied")
    assert {path.stat().st_nlink for path in (tmp_path / "copied" / "shards").iterdir()} == {1}
    assert (
        made.content(tmp_path / "copied")
        == made.content(tmp_path / "linked")
        == made.content(store)
    )


def test_a_part_may_become_the_whole_and_parts_may_overlap(parts, store, made):
    merge([*parts, parts[1], store], parts[0])
    assert made.content(parts[0]) == made.content(store)


def test_it_may_be_done_again(parts, store, made, tmp_path):
    for _ in range(2):
        merge(parts, tmp_path / "merged")
    assert made.content(tmp_path / "merged") == made.content(store)


def test_shards_in_no_part_are_named_before_anything_is_written(parts, tmp_path):
    with pytest.raises(
        InputError,
        match=r"^PART: 2 of 5 shards are in no part: 1 \(rows 5 to 9 of the data\), 4 \(rows 20 to "
        r"22 of the data\); name the parts",
    ):
        merge([parts[0], parts[2]], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_parts_of_different_stores_are_refused(parts, made, tmp_path):
    made.write_store(tmp_path / "other", made.make_settings(seed=4))
    with pytest.raises(
        OtherSettingsError, match=r"part-0 and .*other: are of different stores: seed 0 and 4"
    ):
        merge([*parts, tmp_path / "other"], tmp_path / "merged")
    with pytest.raises(OtherSettingsError, match="seed 0 and 4"):
        merge(parts, tmp_path / "other")


def test_parts_that_disagree_about_a_shard_are_refused(parts, made, tmp_path):
    """As engines do that round in another way each time."""
    (path,) = parts[1].glob("shards/000004-*")
    copy = tmp_path / "copy"
    shutil.copytree(parts[1], copy)
    (copy / "shards" / path.name).rename(copy / "shards" / "000004-0123456789abcdef.arrow")
    with pytest.raises(
        InputError, match=r"part-1.* and .*copy.*: are different files of shard 4 \(rows 20 to 22"
    ):
        merge([*parts, copy], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_what_is_no_part_is_refused(parts, tmp_path):
    with pytest.raises(NoStoreError, match="none: is no teacher store"):
        merge([*parts, tmp_path / "none"], tmp_path / "merged")


def test_a_damaged_shard_is_named_and_the_store_is_not_whole(parts, tmp_path):
    (path,) = parts[1].glob("shards/000004-*")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(DamagedStoreError, match=r"000004-.*: is damaged"):
        merge(parts, tmp_path / "merged")
    assert not (tmp_path / "merged" / "manifest.json").exists()
