"""`llmkd generate-teacher-data`, shares of it, and the repair of what it made."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

RECIPE = """\
name: asked
stages:
  teacher_data:
    kind: generate
    teacher: {model_name_or_path: teacher}
    data: {kind: task, num_examples: 60, split: unlabelled}
    engine: {kind: transformers, batch_size: 8}
    generation: {max_completion_length: 60}
    capture: {kind: top_k, top_k: 4}
    shard_size: 8
  student:
    kind: train
    student:
      kind: scratch
      config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}
    teacher: {kind: store, path: stage:teacher_data}
    data: {kind: store, path: stage:teacher_data, max_length: 64}
    losses: [{kind: forward_kl}]
    trainer: {max_steps: 2, per_device_train_batch_size: 4}
"""
STORE = "stages/teacher_data/store"


@pytest.fixture
def asked(llmkd, tiny_llama, tokenizer):
    """The command line in a folder with the recipe and its teacher."""
    tiny_llama(tokenizer).save_pretrained(llmkd.folder / "teacher")
    tokenizer.save_pretrained(llmkd.folder / "teacher")
    (llmkd.folder / "asked.yaml").write_text(RECIPE)
    return llmkd


def checksums(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_it_asks_and_trains_nobody_and_the_run_goes_on_from_it(asked):
    out, _ = asked.run("generate-teacher-data", "asked.yaml", "--json")
    folder = asked.folder / "runs" / "asked"
    assert json.loads(out) == {"teacher_data": "runs/asked/stages/teacher_data"}
    assert not (folder / "stages" / "student").exists()
    before = checksums(folder / STORE)
    _, err = asked.run("train", "asked.yaml")
    assert "[1/2] teacher_data: finished before" in err
    assert (folder / "stages" / "student" / "model" / "config.json").exists()
    assert checksums(folder / STORE) == before


def test_shares_merge_into_the_store_of_one_process(asked):
    asked.run("generate-teacher-data", "asked.yaml", "output_dir=whole")
    for number in (1, 2, 3):
        asked.run("generate-teacher-data", "asked.yaml", "--shard", f"{number}/3")
    parts = [f"runs/asked-{number}-of-3/{STORE}" for number in (1, 2, 3)]
    asked.run("cache", "merge", *parts, "--output", "merged")
    ours, expected = checksums(asked.folder / "merged"), checksums(asked.folder / "whole" / STORE)
    assert ours == expected


def test_a_share_that_is_none_is_refused(asked):
    _, err = asked.run("generate-teacher-data", "asked.yaml", "--shard", "4/3", status=2)
    assert "--shard: 4/3 is no share; write I/N with I from 1 to N" in err


def test_a_recipe_that_asks_nobody_is_refused(asked):
    text = RECIPE.replace("stage:teacher_data", "somewhere")
    only = "name: asked\nstages:\n" + text[text.index("  student:\n    kind") :]
    only = only.replace("{kind: store, path: somewhere}", "{model_name_or_path: teacher}")
    only = only.replace(
        "{kind: store, path: somewhere, max_length: 64}", "{kind: task, num_examples: 9}"
    )
    (asked.folder / "nobody.yaml").write_text(only)
    _, err = asked.run("generate-teacher-data", "nobody.yaml", status=2)
    assert "none of them asks a teacher; add one of kind: generate, or kind: score" in err


def test_kill_9_at_any_moment_loses_nothing_and_does_nothing_twice(asked):
    asked.run("generate-teacher-data", "asked.yaml", "output_dir=whole")
    draw = random.Random(0)
    command = [sys.executable, "-m", "llmkd", "generate-teacher-data", "asked.yaml"]
    shards = asked.folder / "runs" / "asked" / STORE / "shards"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for wanted in (1, 3, 6):
        child = subprocess.Popen(
            command, cwd=asked.folder, env=environment, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while len(list(shards.glob("0*.arrow"))) < wanted and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        child.wait()
        done = {path.name for path in shards.glob("0*.arrow")}
        assert len(done) >= wanted
    _, err = asked.run("generate-teacher-data", "asked.yaml")
    assert done <= {path.name for path in shards.glob("0*.arrow")}
    ours, expected = (checksums(asked.folder / name / STORE) for name in ("runs/asked", "whole"))
    assert ours == expected
    assert "teacher_data  0/60" not in err


@pytest.mark.parametrize(
    "place", [pytest.param("shards", marks=pytest.mark.slow), "manifest.json", "index"]
)
def test_repair_gives_back_the_bytes_that_were_there(asked, place):
    asked.run("generate-teacher-data", "asked.yaml")
    store = asked.folder / "runs" / "asked" / STORE
    before = checksums(store)
    (path, *_) = sorted(p for p in store.rglob("*") if p.is_file() and place in str(p))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)
    out, err = asked.run("cache", "verify", "runs/asked/stages/teacher_data", status=1)
    assert path.name in out
    assert "llmkd cache repair" in err
    asked.run("cache", "repair", "runs/asked/stages/teacher_data")
    assert checksums(store) == before


def test_a_store_without_its_recipe_says_how_to_mend_it(asked):
    asked.run("generate-teacher-data", "asked.yaml")
    (asked.folder / "runs" / "asked" / STORE).rename(asked.folder / "alone")
    (path, *_) = sorted((asked.folder / "alone" / "shards").glob("*.arrow"))
    path.write_bytes(path.read_bytes()[:-9])
    _, err = asked.run("cache", "repair", "alone", status=2)
    assert "alone: shards 0 are damaged, and the recipe of its run is not beside it" in err
    assert path.exists()
