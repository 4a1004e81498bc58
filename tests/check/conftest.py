"""Recipes on models and data of this machine."""

import json

import pytest

from llmkd.check.machine import Machine, Memory
from llmkd.check.report import report
from llmkd.recipe import load_with_source

GIB = 2**30

RECIPE = """\
name: local
kind: train
student: {model_name_or_path: STUDENT}
teacher: {model_name_or_path: TEACHER}
data: {dataset_name: DATA, max_length: 40}
losses: [{kind: forward_kl}]
trainer: {per_device_train_batch_size: 4}
"""


@pytest.fixture
def machine():
    """A machine with 8 GiB."""
    return Machine(Memory("main memory", 16 * GIB, 8 * GIB), [], "no nvidia-smi here", 2)


@pytest.fixture
def local(tmp_path, tokenizer, tiny_llama):
    """A folder with a student, a teacher, ten rows, and a recipe that names them."""
    for name, hidden_size in (("student", 16), ("teacher", 32)):
        tiny_llama(tokenizer, hidden_size=hidden_size).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    rows = [{"prompt": f"{i}+1=", "completion": f"{i + 1}"} for i in range(10)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = RECIPE.replace("STUDENT", str(tmp_path / "student"))
    text = text.replace("TEACHER", str(tmp_path / "teacher"))
    (tmp_path / "local.yaml").write_text(text.replace("DATA", str(tmp_path / "data.jsonl")))
    return tmp_path


@pytest.fixture
def checked(machine):
    """Checks a recipe, with overrides, against that machine."""

    def check(path, *overrides, on=machine):
        return report(*load_with_source(path, overrides), on)

    return check
