"""Builds of extensions that were killed: nobody waits for them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.file_baton import FileBaton

from llmkd.compiled import FOLDER, LOCK, prepare_builds

BUILD = """
import sys, time
from torch.utils.file_baton import FileBaton
assert FileBaton(sys.argv[1]).try_acquire()
print("building", flush=True)
time.sleep(600)
"""


@pytest.fixture
def lock(monkeypatch, tmp_path):
    """Where an extension's build is marked."""
    monkeypatch.setenv("LLMKD_CACHE", str(tmp_path))
    # Set and removed, so that it is put back afterwards.
    monkeypatch.setenv(FOLDER, "")
    monkeypatch.delenv(FOLDER)
    prepare_builds()
    folder = Path(os.environ[FOLDER]) / "shm"
    folder.mkdir(parents=True)
    assert folder.is_relative_to(tmp_path)
    return folder / LOCK


def test_only_the_lock_of_a_build_that_was_killed_goes(lock, capsys):
    with subprocess.Popen(
        [sys.executable, "-c", BUILD, str(lock)], stdout=subprocess.PIPE, text=True
    ) as building:
        assert building.stdout is not None
        assert building.stdout.readline() == "building\n"
        prepare_builds()
        assert lock.exists(), "somebody builds"
        assert capsys.readouterr().err == ""
        building.kill()
    assert lock.exists()
    prepare_builds()
    assert "a build was killed" in capsys.readouterr().err
    assert FileBaton(str(lock)).try_acquire(), "the next one builds"


def test_a_folder_of_the_users_is_left_alone(lock, monkeypatch, tmp_path):
    lock.touch()
    monkeypatch.setenv(FOLDER, str(lock.parent.parent.rename(tmp_path / "mine")))
    prepare_builds()
    assert (tmp_path / "mine" / "shm" / LOCK).exists()
