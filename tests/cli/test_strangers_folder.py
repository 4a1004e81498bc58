"""The command line on what strangers wrote: their folders, and code that nobody allowed."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from llmkd.cli import app

TRAINED = """
name: plain
kind: train
student:
  kind: scratch
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}
data: {kind: task, digits: 1, num_examples: 20}
losses: [{kind: cross_entropy}]
trainer: {max_steps: 1, per_device_train_batch_size: 4}
"""


LAUNCH = ["--launch", "ddp", "--num-processes", "2"]


@pytest.mark.parametrize("options", [[], pytest.param(LAUNCH, marks=pytest.mark.slow)])
def test_modules_in_the_current_folder_are_not_taken_for_libraries(tmp_path, options):
    (tmp_path / "plain.yaml").write_text(TRAINED)
    (tmp_path / "yaml.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    # -P: as the console script, which does not look there.
    command = [sys.executable, "-P", "-m", "llmkd", "train", "plain.yaml", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "trusting.yaml", "--deep"], "stages.train.student.trust_remote_code: runs"),
        (["train", "trusting.yaml"], "stages.train.student.trust_remote_code: runs"),
        (["eval", "nobody/m", "--trust-remote-code"], "the code of nobody/m"),
        (["eval", "nobody/m", "--suite", "own.yaml"], "runs `own_task.yaml`"),
    ],
)
def test_every_command_refuses_code_that_is_not_allowed(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    scratch = TRAINED[TRAINED.index("student:") : TRAINED.index("data:")]
    trusting = "student: {model_name_or_path: nobody/m, trust_remote_code: true}\n"
    (tmp_path / "trusting.yaml").write_text(TRAINED.replace(scratch, trusting))
    tasks = "tasks: [{kind: lm_eval, name: own, definition: own_task.yaml}]"
    (tmp_path / "own_task.yaml").write_text("output_type: multiple_choice\n")
    (tmp_path / "own.yaml").write_text(f"name: own\n{tasks}\n")
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "--allow-code" in done.stderr
    assert not list(tmp_path.glob("runs/**/stages"))
