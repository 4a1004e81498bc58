import shutil

import pytest
from transformers import AutoModelForCausalLM

from llmkd.errors import InputError

MERGING = """\
name: merging
stages:
  merged:
    kind: merge
    models: [STUDENT, OTHER]
    method: {kind: slerp}
  tuned:
    kind: train
    student: {model_name_or_path: stage:merged}
    data: {kind: task, digits: 1, num_examples: 9}
    losses: [{kind: cross_entropy}]
"""


def merging(local, other):
    text = MERGING.replace("STUDENT", str(local / "student")).replace("OTHER", str(local / other))
    (local / "merging.yaml").write_text(text)
    return local / "merging.yaml"


def test_a_merged_model_is_known_as_its_first_one(local, checked):
    shutil.copytree(local / "student", local / "copy")
    report = checked(merging(local, "copy"))
    count = AutoModelForCausalLM.from_pretrained(local / "student").num_parameters()
    assert report.stages["merged"].facts["parameters"].value == count
    assert report.stages["merged"].facts["disk"].value == 4 * count
    # The largest is of 32 x 16: one of each model, their sum, and what is written of it.
    assert report.stages["merged"].facts["memory"].parts["tensors"] == 4 * 4 * 32 * 16
    assert report.stages["tuned"].facts["student parameters"].value == count
    assert report.stages["tuned"].facts["vocabulary"].value == 18


def test_models_that_cannot_be_merged_are_told_before_the_run(local, checked):
    with pytest.raises(InputError) as caught:
        checked(merging(local, "teacher"))
    assert caught.value.problems == [
        f"{local}/merging.yaml:5 stages.merged.models.1: {local}/teacher is of another architecture than "
        f"{local}/student: hidden_size is 32 and 16; merge models of one shape"
    ]
    shutil.copytree(local / "student", local / "copy")
    path = local / "copy" / "tokenizer.json"
    path.write_text(path.read_text().replace('"+"', '"!"'))
    with pytest.raises(InputError, match=r"models\.1: .*copy has another tokenizer.*'!', '\+'"):
        checked(merging(local, "copy"))
