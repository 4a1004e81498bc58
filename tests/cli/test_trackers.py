"""Trackers through the command line, with stand-ins for the packages of two of them."""

import json
import os

import pytest

RECIPE = """
name: tracked
kind: train
student:
  kind: scratch
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}
data: {kind: task, digits: 1, num_examples: 30}
losses: [{kind: cross_entropy}]
trainer: {max_steps: 3, per_device_train_batch_size: 4, logging_steps: 1, report_to: [wandb, trackio, tensorboard]}
"""
# Without a login it asks, and ends the program where nobody can answer.
WANDB = """
import sys
run = None
def init(**_):
    if not sys.stdin.read(1):
        sys.exit("no login")
"""
SDK = "class ConfigError(Exception): pass\n"
TRACKIO = """
import json
from types import SimpleNamespace
context_vars = SimpleNamespace(current_space_id=SimpleNamespace(get=lambda: None))
config = {}
class Config(dict):
    def update(self, values, allow_val_change): super().update(values)
config = Config()
def init(**_): pass
def log(values):
    with open("logged.jsonl", "a") as file:
        file.write(json.dumps(values) + "\\n")
def finish(): log({"finished": True})
"""


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Stand-ins of wandb and trackio on the path."""
    folder = tmp_path / "packages"
    library = folder / "wandb" / "sdk" / "lib"
    library.mkdir(parents=True)
    for path in (library, library.parent):
        (path / "__init__.py").touch()
    (folder / "wandb" / "__init__.py").write_text(WANDB)
    (library / "config_util.py").write_text(SDK)
    (folder / "trackio.py").write_text(TRACKIO)
    path = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    monkeypatch.setenv("PYTHONPATH", path.rstrip(os.pathsep))


def test_one_tracker_fails_and_the_others_and_the_run_go_on(llmkd, packages):
    (llmkd.folder / "tracked.yaml").write_text(RECIPE)
    _, err = llmkd.run("train", "tracked.yaml")
    assert err.count("tracker wandb: SystemExit: no login; training goes on without it") == 1
    assert err.count("tracker ") == 1
    stage = llmkd.folder / "runs/tracked/stages/train"
    written = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    *logged, last = map(json.loads, (llmkd.folder / "logged.jsonl").read_text().splitlines())
    assert last == {"finished": True}
    seen = {line["train/global_step"]: line for line in logged if "train/loss" in line}
    assert {step: line["train/loss/cross_entropy"] for step, line in seen.items()} == {
        line["step"]: line["loss/cross_entropy"] for line in written
    }
    assert list((stage / "tensorboard").glob("events.out.tfevents.*"))


def test_another_tracker_is_no_other_run(llmkd, packages):
    (llmkd.folder / "tracked.yaml").write_text(RECIPE)
    llmkd.run("train", "tracked.yaml", "trainer.report_to=none")
    _, err = llmkd.run("train", "tracked.yaml", "trainer.project=mine")
    assert "train: finished before" in err
