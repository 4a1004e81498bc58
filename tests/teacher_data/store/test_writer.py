import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llmkd.errors import InputError, LlmkdError
from llmkd.faults import explained
from llmkd.run_folder import held
from llmkd.teacher_data.store import (
    OtherSettingsError,
    Store,
    StoreError,
    StoreWriter,
    UnfinishedStoreError,
)
from llmkd.teacher_data.store.folder import need_settings


@pytest.fixture
def settings(made):
    return made.make_settings()


def test_a_store_goes_on_with_what_is_missing_to_the_same_bytes(made, settings, store, tmp_path):
    for number in range(5):
        with StoreWriter(tmp_path / "cut", settings) as writer:
            assert writer.missing == list(range(number, 5))
            writer.write(number, made.make_rows(settings, writer.rows_of(number)))
    with pytest.raises(UnfinishedStoreError):
        Store.open(tmp_path / "cut")
    with StoreWriter(tmp_path / "cut", settings) as writer:
        assert writer.missing == []
        writer.finish()
    assert made.content(tmp_path / "cut") == made.content(store)


def test_the_order_in_which_shards_are_written_changes_nothing(made, settings, store, tmp_path):
    with StoreWriter(tmp_path / "other", settings) as writer:
        for number in (3, 0, 4, 2, 1):
            writer.write(number, made.make_rows(settings, writer.rows_of(number)))
        writer.finish()
    assert made.content(tmp_path / "other") == made.content(store)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("half \ud83d a pair", "half \ufffd a pair"),
        ("at the end \ud83d", "at the end \ufffd"),
        ("the other half \udc00\udc00", "the other half \ufffd\ufffd"),
        # As some JSON writers leave a character of two halves.
        ("a pair \ud83d\ude00", "a pair \U0001f600"),
        ("\ufeffmarked \U0001f600 é", "\ufeffmarked \U0001f600 é"),
        ("", ""),
    ],
)
def test_halves_of_characters_are_marked_in_text_and_tokens_stay(text, kept, made, tmp_path):
    settings = made.make_settings(num_rows=1, num_samples=1)
    row = replace(made.make_row(settings, 0, 0), prompt=text, completion=text)
    with StoreWriter(tmp_path, settings) as writer:
        writer.write(0, [row])
        writer.finish()
    found = Store.open(tmp_path)[0]
    assert made.same_row(found, replace(row, prompt=kept, completion=kept))


def test_counts_are_those_of_the_rows(made, settings, tmp_path):
    counts = made.write_store(tmp_path / "store", settings)
    rows = list(made.make_rows(settings, range(23)))
    files = list((tmp_path / "store" / "shards").iterdir())
    assert counts.num_rows == len(rows) == 46
    assert counts.num_tokens == sum(len(row.token_ids) for row in rows)
    assert counts.num_positions == sum(len(row.positions.label_log_prob) for row in rows)
    assert counts.num_cut_rows == sum(row.num_cut > 0 for row in rows) > 0
    assert counts.num_stop == sum(row.finish_reason == "stop" for row in rows) > 0
    assert counts.num_length == 46 - counts.num_stop > 0
    assert counts.num_bytes == sum(path.stat().st_size for path in files)
    assert 0 < counts.num_payload_bytes < counts.num_bytes


def test_rows_may_make_none_and_a_shard_may_be_empty(made, settings, tmp_path):
    with StoreWriter(tmp_path, settings) as writer:
        for number in range(5):
            rows = list(made.make_rows(settings, writer.rows_of(number)))
            writer.write(number, [] if number == 2 else rows[1:])
        writer.finish()
    numbers = [(row.number, row.sample) for row in Store.open(tmp_path)]
    assert numbers == [
        (n, k) for n in range(23) for k in range(2) if n not in range(10, 15) and (n % 5 or k)
    ]


def test_data_without_rows_makes_a_store_without_rows(made, tmp_path):
    counts = made.write_store(tmp_path, made.make_settings(num_rows=0))
    store = Store.open(tmp_path)
    assert len(store) == counts.num_rows == 0
    assert list(store) == []


def test_each_share_has_its_own_shards(made, settings, tmp_path):
    for share, expected in {(0, 2): [0, 2, 4], (1, 2): [1, 3], (4, 5): [4], (6, 7): []}.items():
        with StoreWriter(tmp_path / f"{share}", settings, share) as writer:
            assert writer.missing == expected
    counts = made.write_store(tmp_path / "part", settings, (1, 2))
    assert counts.num_rows == 20
    assert not (tmp_path / "part" / "manifest.json").exists()
    with pytest.raises(UnfinishedStoreError, match=r"3 of 5 shards are missing; run `llmkd gen"):
        Store.open(tmp_path / "part")


def test_shares_one_after_the_other_in_one_folder_make_it_whole(made, settings, store, tmp_path):
    for share in ((1, 2), (0, 2)):
        made.write_store(tmp_path / "shared", settings, share)
    assert made.content(tmp_path / "shared") == made.content(store)


def test_a_store_begun_with_other_settings_is_refused_and_left_alone(made, store):
    before = made.content(store)
    other = made.make_settings(seed=3, sampling={"temperature": 0.5, "stop": []})
    with (
        pytest.raises(
            OtherSettingsError,
            match=r"store: was begun with other settings than now: seed 0 and 3, sampling.temperature "
            r"1.0 and 0.5; write the same again, or another folder$",
        ),
        StoreWriter(store, other),
    ):
        pass
    assert made.content(store) == before


@pytest.mark.parametrize("lost", [["plan.json"], ["plan.json", "manifest.json"]])
def test_settings_are_known_without_the_plan(lost, made, settings, store):
    before = made.content(store)
    for name in lost:
        (store / name).unlink()
    with (
        pytest.raises(OtherSettingsError, match="seed 0 and 3"),
        StoreWriter(store, made.make_settings(seed=3)),
    ):
        pass
    made.write_store(store, settings)
    assert made.content(store) == before


def test_a_second_process_is_refused_until_the_first_is_gone(made, settings, tmp_path):
    program = (
        "import sys; from pathlib import Path; from llmkd.run_folder import held\n"
        "with held(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with (
            pytest.raises(
                InputError,
                match=r"^teacher store: .* in use by another run; wait for it, or write a share",
            ),
            StoreWriter(tmp_path, settings),
        ):
            pass
        assert made.content(tmp_path) == {}
        other.kill()
    assert made.write_store(tmp_path, settings).num_rows == 46


def test_the_folder_is_held_as_long_as_it_is_written(made, settings, tmp_path):
    with StoreWriter(tmp_path, settings):
        for _ in range(2):
            with pytest.raises(InputError, match="in use by another run"), held(tmp_path):
                pass
    with held(tmp_path):
        pass


def test_the_folder_is_free_after_an_error(made, settings, tmp_path):
    with pytest.raises(ZeroDivisionError), StoreWriter(tmp_path, settings):
        raise ZeroDivisionError
    with StoreWriter(tmp_path, settings) as writer:
        writer.write(0, made.make_rows(settings, writer.rows_of(0)))
    with pytest.raises(OtherSettingsError), StoreWriter(tmp_path, made.make_settings(seed=1)):
        pass
    with held(tmp_path):
        pass


def test_rows_that_fail_leave_nothing_of_their_shard(made, settings, tmp_path):
    def failing(numbers):
        yield from made.make_rows(settings, numbers[:2])
        raise RuntimeError("the teacher fell over")

    with StoreWriter(tmp_path, settings) as writer:
        with pytest.raises(RuntimeError, match="fell over"):
            writer.write(1, failing(writer.rows_of(1)))
        assert 1 in writer.missing
    assert list(made.content(tmp_path)) == ["plan.json"]


def test_on_a_full_disk_no_half_shard_is_left_and_it_goes_on(made, settings, store, tmp_path):
    folder = tmp_path / "cut"
    with StoreWriter(folder, settings) as writer:
        writer.write(0, made.make_rows(settings, writer.rows_of(0)))
        before = made.content(folder)
        with (
            full_disk(1000),
            pytest.raises(LlmkdError, match=r"cut: the limit .*make room there"),
            explained(folder),
        ):
            writer.write(1, made.make_rows(settings, writer.rows_of(1)))
        assert made.content(folder) == before
        writer.write(1, made.make_rows(settings, writer.rows_of(1)))
    made.write_store(folder, settings)
    assert made.content(folder) == made.content(store)


@pytest.mark.parametrize("limit", [10, 500])
def test_a_disk_that_is_full_at_the_end_leaves_the_shards(limit, made, settings, store, tmp_path):
    folder = tmp_path / "cut"
    shutil.copytree(store / "shards", folder / "shards")
    shutil.copy(store / "plan.json", folder)
    with StoreWriter(folder, settings) as writer:
        before = made.content(folder)
        with full_disk(limit), pytest.raises(OSError, match="File too large"):
            writer.finish()
        assert made.content(folder) == before
        writer.finish()
    assert made.content(folder) == made.content(store)


class full_disk:  # noqa: N801
    """A block in which files may have so many bytes."""

    def __init__(self, limit):
        self.limit = limit

    def __enter__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, self.before[1]))

    def __exit__(self, *error):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def test_a_folder_that_cannot_be_written_is_refused_but_read(made, settings, as_nobody):
    made.write_store(as_nobody / "store", settings)
    for path in [*as_nobody.rglob("*"), as_nobody]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    for folder in (as_nobody / "store", as_nobody / "new"):
        with (
            pytest.raises(InputError, match=r"^teacher store: .* cannot be written \(Permission"),
            StoreWriter(folder, settings),
        ):
            pass
    assert len(list(Store.open(as_nobody / "store"))) == 46
    as_nobody.chmod(0o755)
    for path in as_nobody.rglob("*"):
        path.chmod(0o755)


def test_leftovers_of_a_kill_are_cleared_away_and_others_files_are_not(made, settings, store):
    before = made.content(store)
    ours = [
        ".plan.json.7.tmp",
        ".manifest.json.7.tmp",
        ".index-0123.arrow.7.tmp",
        "shards/.000003-01.arrow.7.tmp",
    ]
    theirs = [".stage.json.7.tmp", "notes.txt", "shards/notes.txt"]
    for name in ours + theirs:
        (store / name).write_text("half")
    with StoreWriter(store, settings):
        pass
    assert made.content(store) == before | dict.fromkeys(theirs, b"half")


def test_a_store_that_lost_a_shard_does_not_pass_for_whole(made, settings, store):
    before = made.content(store)
    next((store / "shards").glob("000002-*")).unlink()
    with StoreWriter(store, settings) as writer:
        assert writer.missing == [2]
    assert not (store / "manifest.json").exists()
    made.write_store(store, settings)
    assert made.content(store) == before


def test_two_files_of_one_shard_are_refused(made, settings, store):
    path = next((store / "shards").glob("000002-*"))
    shutil.copy(path, path.with_name("000002-0123456789abcdef.arrow"))
    with (
        StoreWriter(store, settings) as writer,
        pytest.raises(StoreError, match=r"same shard; delete all but one"),
    ):
        writer.finish()


def test_a_shard_of_another_store_is_refused(made, settings, tmp_path):
    for seed, folder in enumerate(("own", "other")):
        made.write_store(tmp_path / folder, made.make_settings(seed=seed), (0, 5))
    made.write_store(tmp_path / "own", settings, (1, 2))
    next((tmp_path / "own" / "shards").glob("000003-*")).unlink()
    made.write_store(tmp_path / "other", made.make_settings(seed=1), (3, 5))
    shutil.copy(next((tmp_path / "other" / "shards").glob("000003-*")), tmp_path / "own" / "shards")
    with (
        StoreWriter(tmp_path / "own", settings, (0, 5)) as writer,
        pytest.raises(OtherSettingsError, match=r"000003-.*: is another store's: seed 1 and 0"),
    ):
        writer.finish()


def test_every_shard_is_on_the_disk_before_it_gets_its_name(made, settings, tmp_path, monkeypatch):
    calls = []

    def fsync(descriptor):
        calls.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    def replace(source, target):
        calls.append(f"{source} -> {target}")
        rename(source, target)

    rename = os.replace
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    made.write_store(tmp_path, settings)
    renames = [i for i, call in enumerate(calls) if " -> " in call]
    assert len(renames) == 5 + 3
    for i in renames:
        staged, target = calls[i].split(" -> ")
        assert calls[i - 1] == staged
        assert calls[i + 1] == str(Path(target).parent)
    assert calls[renames[-1]].endswith("manifest.json")


def test_a_plan_that_nothing_was_written_by_may_be_changed(made, settings, tmp_path):
    with StoreWriter(tmp_path, settings):
        pass
    other = made.make_settings(seed=1)
    with StoreWriter(tmp_path, other) as writer:
        assert writer.missing == list(range(other.num_shards))
    assert need_settings(tmp_path) == other
