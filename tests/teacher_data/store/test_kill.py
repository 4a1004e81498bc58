"""kill -9 while a store is written: nothing is written twice, nothing is lost, no byte differs."""

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import asdict

import pytest

from llmkd.teacher_data.store import Store
from llmkd.teacher_data.store.verify import verify

# Python tells its hooks of every file that is opened, renamed, removed, locked or listed: the process
# kills itself at a chosen one within the store's folder. Each try is forked off, the imports done.
SUICIDES = """
import importlib.util, json, os, signal, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("synthetic_store", sys.argv[1])
made = importlib.util.module_from_spec(spec); spec.loader.exec_module(made)
folder, settings = sys.argv[2], made.StoreSettings(**json.loads(sys.argv[3]))
def write(last, target):
    seen = 0
    def die(event, arguments):
        nonlocal seen
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.scandir", "fcntl.flock"):
            seen += event == "fcntl.flock" or target in str(arguments[0])
            if seen == last:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(die)
    made.write_store(Path(target), settings)
last, status = 0, -1
while status:
    last += 1
    child = os.fork()
    if not child:
        write(last, f"{folder}/{last:03d}")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), status
"""


def test_killed_at_any_call_of_the_system_it_goes_on_to_the_same_bytes(made, tmp_path):
    settings = made.make_settings(num_rows=8, rows_per_shard=3)
    made.write_store(tmp_path / "whole", settings)
    before = made.content(tmp_path / "whole")
    folder = tmp_path / "killed"
    folder.mkdir()
    arguments = [made.__file__, str(folder), json.dumps(asdict(settings))]
    subprocess.run([sys.executable, "-c", SUICIDES, *arguments], check=True)
    *killed, whole = sorted(folder.iterdir())
    assert made.content(whole) == before
    num_shards = set()
    for cut in killed:
        num_shards.add(len([*cut.glob("shards/*.arrow")]))
        shards = {path: path.stat().st_ino for path in cut.glob("shards/*.arrow")}
        made.write_store(cut, settings)
        assert made.content(cut) == before
        assert {path: path.stat().st_ino for path in shards} == shards
    # It was killed before, after and between any two shards, and more often.
    assert num_shards == {0, 1, 2, 3}
    assert len(killed) > 30


@pytest.mark.parametrize("num_kills", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_goes_on_to_the_same_bytes(num_kills, made, tmp_path):
    draw = random.Random(num_kills)
    settings = made.make_settings(num_rows=600, rows_per_shard=3)
    made.write_store(tmp_path / "whole", settings)
    expected = made.content(tmp_path / "whole")
    done = 0
    for attempt in range(100 * num_kills):
        folder = tmp_path / "cut"
        was_killed = killed_writer(made, folder, settings, draw.uniform(0, 0.15))
        done += was_killed
        kept = made.content(folder)
        assert all(kept[name] == expected[name] for name in kept if not name.endswith(".tmp"))
        if not was_killed:
            assert kept == expected
            folder.rename(tmp_path / f"cut-{attempt}")
        elif done >= num_kills:
            break
    made.write_store(tmp_path / "cut", settings)
    assert made.content(tmp_path / "cut") == expected
    assert verify(tmp_path / "cut") == []
    assert len(Store.open(tmp_path / "cut")) == 1200


def killed_writer(made, folder, settings, after_s):
    """Starts a writer and kills it, unless it is done by then; so many seconds after its imports."""
    command = [sys.executable, made.__file__, str(folder), json.dumps(asdict(settings))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            assert process.wait(after_s) == 0
        except subprocess.TimeoutExpired:
            process.kill()
        return process.wait() == -signal.SIGKILL
