"""Whatever happens to a byte of a store: it is found, named, and the rows can be captured again."""

import random
import shutil

import pyarrow as pa
import pytest

from llmkd.errors import InputError
from llmkd.run_folder import held
from llmkd.teacher_data.store import (
    DamagedStoreError,
    NoStoreError,
    Store,
    StoreWriter,
    UnfinishedStoreError,
    UnknownFormatError,
)
from llmkd.teacher_data.store.folder import read_settings
from llmkd.teacher_data.store.sealed import checksum
from llmkd.teacher_data.store.shards import SETTINGS, encode_batch, map_batch
from llmkd.teacher_data.store.verify import damaged, rebuild, remove_shards, verify


def files_of(store):
    return sorted(p for p in store.rglob("*") if p.is_file() and p.name != ".lock")


def flip(path, place, draw):
    content = bytearray(path.read_bytes())
    content[place] ^= draw.randrange(1, 256)
    path.write_bytes(content)


def read_all(store):
    return list(Store.open(store))


def repair(made, store, settings):
    remove_shards(store, damaged(store))
    made.write_store(store, settings)


def test_a_store_as_written_is_found_whole(store):
    told = []
    assert verify(store, lambda done, total: told.append((done, total))) == []
    assert told == [(0, 5), (1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    assert damaged(store) == []


@pytest.mark.parametrize("num_flips", [12, pytest.param(500, marks=pytest.mark.slow)])
def test_a_flipped_byte_anywhere_is_found_and_named_by_verify_and_on_read(num_flips, store):
    draw = random.Random(0)
    for path in files_of(store):
        whole, name = path.read_bytes(), str(path.relative_to(store))
        for place in draw.choices(range(len(whole)), k=num_flips):
            flip(path, place, draw)
            (damage,) = verify(store)
            assert (damage.path, damage.what) == (name, "is damaged")
            if name == "plan.json":
                assert len(read_all(store)) == 46
            else:
                with pytest.raises(
                    DamagedStoreError, match=rf"{path}.* `llmkd cache repair {store}`"
                ):
                    read_all(store)
            path.write_bytes(whole)
    assert verify(store) == []


def test_padding_counts_too(store):
    """Arrow fills its buffers up to 8 bytes; nobody reads these zeros."""
    path = files_of(store)[-1]
    end = path.read_bytes().index(b"ARROW1", 6)
    for place in (6, 7, end - 5):
        whole = path.read_bytes()
        flip(path, place, random.Random(0))
        assert damaged(store) == [4]
        path.write_bytes(whole)


def test_only_rows_of_a_damaged_shard_are_lost(store, made):
    path = next((store / "shards").glob("000001-*"))
    flip(path, 700, random.Random(0))
    opened = Store.open(store)
    rows = list(made.make_rows(opened.settings, range(23)))
    for index in [*range(10), *range(20, 46)]:
        assert made.same_row(opened[index], rows[index])
    for index in range(10, 20):
        with pytest.raises(
            DamagedStoreError,
            match=r"000001-\w+.arrow: is damaged \(shard 1: rows 5 to 9 of the data\); `llmkd cache",
        ):
            opened.positions([0, index])


@pytest.mark.parametrize("left", [0, 1, 7, 8, 100, 0.3, 0.5, 0.9, -300, -10, -7, -1])
@pytest.mark.parametrize("which", range(8))
def test_a_file_that_was_cut_short_is_found(which, left, store):
    path = files_of(store)[which]
    whole = path.read_bytes()
    kept = int(left * len(whole)) if isinstance(left, float) else left
    path.write_bytes(whole[:kept])
    (damage,) = verify(store)
    assert (damage.path, damage.what) == (str(path.relative_to(store)), "is damaged")
    if path.suffix == ".arrow" and path.parent != store:
        with pytest.raises(
            DamagedStoreError, match=rf"has {len(whole[:kept])} bytes instead of {len(whole)}"
        ):
            Store.open(store)
    elif path.name != "plan.json":
        with pytest.raises(DamagedStoreError, match="is damaged"):
            Store.open(store)


def test_a_file_that_is_gone_is_found(store):
    for path in files_of(store):
        whole = path.read_bytes()
        path.unlink()
        (damage,) = verify(store)
        assert (damage.path, damage.what) == (str(path.relative_to(store)), "is missing")
        if path.name == "manifest.json":
            with pytest.raises(
                UnfinishedStoreError, match=r"but manifest.json is not; `llmkd cache"
            ):
                Store.open(store)
        elif path.name != "plan.json":
            with pytest.raises(DamagedStoreError, match="is missing"):
                Store.open(store)
        path.write_bytes(whole)


def test_a_damaged_manifest_is_found_though_shards_are_missing(store):
    next((store / "shards").glob("000002-*")).unlink()
    flip(store / "manifest.json", 50, random.Random(0))
    assert [(damage.path, damage.what) for damage in verify(store)] == [
        ("manifest.json", "is damaged")
    ]


def test_a_file_too_many_is_found(store):
    shard = files_of(store)[-1]
    shutil.copy(shard, shard.with_name(shard.name.replace("000004", "000003")))
    shutil.copy(shard, shard.with_name(shard.name.replace("000004", "000099")))
    shutil.copy(store / "plan.json", store / "index-0123456789abcdef.arrow")
    found = [(damage.path[:13], damage.what) for damage in verify(store)]
    too_many = "is one file too many"
    assert found == [
        ("index-0123456", too_many),
        ("shards/000003", too_many),
        ("shards/000099", too_many),
    ]


def test_after_repair_the_store_has_the_bytes_it_had(store, made):
    settings, before = made.make_settings(), made.content(store)
    draw = random.Random(1)
    for _ in range(30):
        for path in draw.sample(files_of(store), draw.randrange(1, 5)):
            if path.stat().st_size:
                flip(path, draw.randrange(path.stat().st_size), draw)
            if draw.random() < 0.3:
                path.unlink()
        repair(made, store, settings)
        assert made.content(store) == before


def test_repair_of_several_files_of_a_shard(store, made):
    before = made.content(store)
    shard = files_of(store)[-1]
    for number in ("000003", "000099"):
        shutil.copy(shard, shard.with_name(shard.name.replace("000004", number)))
    (store / "manifest.json").unlink()
    assert [damage.shard for damage in verify(store)] == [None, 3, 3, 99]
    assert damaged(store) == [3, 99]
    repair(made, store, made.make_settings())
    assert made.content(store) == before


def test_shards_that_are_taken_out_leave_a_store_that_is_unfinished(store):
    remove_shards(store, [1, 3])
    with pytest.raises(UnfinishedStoreError, match="2 of 5 shards are missing"):
        Store.open(store)
    assert verify(store) == []
    with pytest.raises(UnfinishedStoreError, match="2 of 5 shards are missing"):
        rebuild(store)


def test_nothing_to_take_out_leaves_the_store_whole(store):
    remove_shards(store, [])
    assert len(read_all(store)) == 46


def test_shards_of_a_store_in_use_stay(store, made):
    before = made.content(store)
    with held(store), pytest.raises(InputError, match="in use by another run"):
        remove_shards(store, [1])
    assert made.content(store) == before


@pytest.mark.parametrize("name", ["plan.json", "manifest.json", "index-*.arrow"])
@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_all_but_shards_is_made_again_from_them(name, how, store, made):
    before = made.content(store)
    (path,) = store.glob(name)
    if how == "gone":
        path.unlink()
    else:
        flip(path, 50, random.Random(0))
    counts = rebuild(store)
    assert made.content(store) == before
    assert counts == Store.open(store).counts


def test_settings_are_not_taken_from_a_damaged_shard(store, made):
    for name in ("plan.json", "manifest.json"):
        (store / name).unlink()
    path = next((store / "shards").glob("000000-*"))
    path.write_bytes(path.read_bytes().replace(b'"seed": 0', b'"seed": 7'))
    assert read_settings(store) == made.make_settings()


def test_an_index_of_other_shards_is_cleared_away(store, made):
    before = made.content(store)
    shutil.copy(next(store.glob("index-*")), store / "index-0123456789abcdef.arrow")
    rebuild(store)
    assert made.content(store) == before


def test_shards_alone_are_enough(store, made):
    before = made.content(store)
    for path in store.iterdir():
        if path.is_file():
            path.unlink()
    rebuild(store)
    assert made.content(store) == before


def test_a_damaged_shard_does_not_pass_into_a_manifest(store):
    flip(next((store / "shards").glob("000003-*")), 1000, random.Random(0))
    with pytest.raises(DamagedStoreError, match=r"000003-.*shard 3: rows 15 to 19"):
        rebuild(store)


def test_when_nothing_says_what_a_store_was_it_is_said(tmp_path, made):
    folder = tmp_path / "store"
    with StoreWriter(folder, made.make_settings()):
        pass
    flip(folder / "plan.json", 9, random.Random(0))
    for look in (verify, rebuild, Store.open):
        with pytest.raises(DamagedStoreError, match=r"no file is whole that says .* delete it"):
            look(folder)
    with pytest.raises(NoStoreError):
        verify(tmp_path / "none")


def written_by_another_version(path):
    """The shard in a format of the future, under its right name."""
    batch = map_batch(path)
    said = batch.schema.metadata[SETTINGS].replace(b'"format": 1', b'"format": 2')
    assert said != batch.schema.metadata[SETTINGS]
    content = encode_batch(batch.replace_schema_metadata({SETTINGS: said}))
    path.unlink()
    path = path.with_name(f"{path.name[:6]}-{checksum(content)}.arrow")
    path.write_bytes(content)
    return path


def test_a_shard_of_another_format_is_refused(store, made):
    written_by_another_version(next((store / "shards").glob("000002-*")))
    (store / "manifest.json").unlink()
    with (
        StoreWriter(store, made.make_settings()) as writer,
        pytest.raises(UnknownFormatError, match=r"000002-.* has format 2"),
    ):
        writer.finish()
    (damage,) = verify(store)[1:]
    assert damage.shard == 2
    assert "has format 2" in damage.what


@pytest.mark.parametrize(
    "content", [b"", b"text", encode_batch(pa.record_batch({"a": [1]})).to_pybytes()]
)
def test_what_is_no_shard_is_refused_though_its_name_is_right(content, store, made):
    next((store / "shards").glob("000002-*")).unlink()
    path = store / "shards" / f"000002-{checksum(content)}.arrow"
    path.write_bytes(content)
    with (
        StoreWriter(store, made.make_settings()) as writer,
        pytest.raises(
            DamagedStoreError, match=r"is no shard of a teacher store \(shard 2: rows 10 to 14"
        ),
    ):
        writer.finish()


def test_rows_under_another_number_are_found(store):
    """A shard with the right bytes and name, but the rows of another place."""
    path = next((store / "shards").glob("000002-*"))
    batch = map_batch(path)
    moved = batch.set_column(0, "number", pa.array([n + 1 for n in batch["number"].to_pylist()]))
    content = encode_batch(moved.cast(batch.schema))
    path.unlink()
    path.with_name(f"000002-{checksum(content)}.arrow").write_bytes(content)
    (store / "manifest.json").unlink()
    assert [(d.shard, d.what) for d in verify(store)[1:]] == [
        (2, "has a row 0 that is another one's")
    ]
