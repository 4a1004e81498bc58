"""The command line as a user runs it, on a recipe with every kind of stage."""

import os
import shutil
import subprocess
import sys
import time

import pytest

RECIPE = """
name: tiny
seed: 3
stages:
  teacher:
    kind: train
    student: &student
      kind: scratch
      config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}
    data: &data {kind: task, digits: 1, num_examples: 30}
    losses: [{kind: cross_entropy}]
    trainer: &trainer {max_steps: 8, per_device_train_batch_size: 4, learning_rate: 1e-2, logging_steps: 1, save_steps: 2, lr_scheduler_type: constant}
  teacher_data:
    kind: generate
    teacher: {model_name_or_path: stage:teacher}
    data: {kind: task, digits: 1, num_examples: 20, split: unlabelled}
    engine: {batch_size: 5}
    shard_size: 5
    generation: {temperature: 1.0, max_completion_length: 60}
  student:
    kind: train
    student: *student
    teacher: {model_name_or_path: stage:teacher}
    data: {dataset_name: stage:teacher_data}
    losses: [{kind: forward_kl}, {kind: cross_entropy, weight: 0.5}]
    trainer: *trainer
  evaluation:
    kind: evaluate
    models: [stage:teacher, stage:student]
    suite:
      name: sums
      tasks:
        - {kind: exact_match, name: sums, data: {kind: task, digits: 1, num_examples: 5, split: test}, max_completion_length: 5}
        - {kind: perplexity, name: written, data: {dataset_name: TEXT, max_length: 32}}
"""


class CommandLine:
    """Runs `llmkd` in a folder; `start` gives the process, `run` waits for it."""

    def __init__(self, folder):
        self.folder = folder

    def start(self, *arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "llmkd", *arguments],
            cwd=self.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start_until(self, path, *arguments):
        """Starts a command and returns its process once a file with content, or a folder, is there."""
        process = self.start(*arguments)
        deadline = time.monotonic() + 120
        while not ((self.folder / path).exists() and (self.folder / path).stat().st_size):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, f"{path} is not there"
            time.sleep(0.01)
        return process

    def run(self, *arguments, status=0):
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        assert process.returncode == status, f"exit status {process.returncode}\n{out}\n{err}"
        return out, err


@pytest.fixture
def llmkd(tmp_path):
    """The command line in an empty folder."""
    return CommandLine(tmp_path)


@pytest.fixture
def recipe(tmp_path):
    """The recipe's file name in that folder."""
    return write_recipe(tmp_path)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A finished run of the recipe, made once; to be read, not changed."""
    folder = tmp_path_factory.mktemp("finished")
    CommandLine(folder).run("train", write_recipe(folder))
    return folder / "runs" / "tiny"


@pytest.fixture
def finished(llmkd, recipe, finished_run):
    """The finished run as `runs/tiny` in the test's folder, as if the command had run there."""
    return shutil.copytree(finished_run, llmkd.folder / "runs" / "tiny")


def write_recipe(folder):
    (folder / "text.jsonl").write_text('{"text": "1+2=3"}\n{"text": "4+4=8"}\n')
    (folder / "tiny.yaml").write_text(RECIPE.replace("TEXT", "text.jsonl"))
    return "tiny.yaml"
