"""A kdrl stage as a whole: what it leaves behind, and what an interrupted one goes on to."""

import json
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmkd.training.checkpoints import checkpoint_steps
from llmkd.training.kdrl import run_kdrl
from llmkd.training.phases import Phases
from llmkd.training.step_clock import PARTS

CLOCK = ("time/", "step_time", "runtime", "samples_per_second", "steps_per_second")
FILES = ("metrics.jsonl", "validation.jsonl", "rollouts.jsonl")
HELD_OUT = {"kind": "task", "digits": 2, "num_examples": 4, "keep_columns": ["answer"]}
PARTS_OF_ALL = {
    # The accuracy is 0 and stays there, so that the third validation, after step 4, switches.
    "objective": {"kind": "opd_then_rl", "switch": {"kind": "plateau", "patience": 2}},
    "validation": {"data": HELD_OUT | {"split": "validation"}, "steps": 2},
    "guards": [{"metric": "completion_length", "above": 0, "patience": 1, "action": "soften"}],
}


class StopError(Exception):
    """What ends a training here."""


def run(stage, folder):
    run_kdrl(stage, folder, name="student", seed=0)
    return folder


def lines(folder, name):
    """What a file says, but for what the clock decides."""
    found = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(CLOCK)} for line in found]


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def assert_same(ours, reference):
    a, b = weights(ours), weights(reference)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    for name in FILES:
        assert lines(ours, name) == lines(reference, name), name


@pytest.fixture(scope="module")
def stage(kdrl_stage):
    # Two steps are an epoch, and checkpoints fall between two log lines too.
    return kdrl_stage({"logging_steps": 2}, **PARTS_OF_ALL)


@pytest.fixture(scope="module")
def whole(stage, tmp_path_factory):
    """A run without interruption; to be read, not changed."""
    return run(stage, tmp_path_factory.mktemp("whole"))


@pytest.fixture
def cut(monkeypatch):
    """Runs a stage that fails when a step begins."""

    def run_until(step, stage, folder):
        def begin(self, args, state, control, **_):
            if state.global_step == step:
                raise StopError

        with monkeypatch.context() as patched:
            patched.setattr(Phases, "on_step_begin", begin)
            with pytest.raises(StopError):
                run(stage, folder)
        return folder

    return run_until


def test_a_finished_stage_has_a_model_and_a_log_of_all_that_was_measured(whole, stage):
    model = AutoModelForCausalLM.from_pretrained(whole / "model")
    tokenizer = AutoTokenizer.from_pretrained(whole / "model")
    assert model.config.vocab_size == len(tokenizer)
    assert (whole / "model" / "README.md").read_text().startswith("---")
    first, *_ = map(json.loads, (whole / "metrics.jsonl").read_text().splitlines())
    assert {f"time/{part}" for part in PARTS} <= first.keys()
    assert {"rewards/number/mean", "rewards/length/mean", "kd/reverse_kl"} <= first.keys()
    assert [line["step"] for line in lines(whole, "validation.jsonl")] == [0, 2, 4, 6]
    rollouts = lines(whole, "rollouts.jsonl")
    assert [line["step"] for line in rollouts] == [2] * 4 + [4] * 4 + [6] * 4
    assert rollouts[0].keys() == {"step", "prompt", "completion", "rewards", "advantage"}


def test_a_guard_softens_and_a_plateau_switches_in_the_middle(whole):
    found = [line.get("kd/coefficient") for line in lines(whole, "metrics.jsonl")]
    assert found == [1.0, 0.5, None]


@pytest.mark.parametrize("step", [3, 5])
def test_interrupted_after_a_checkpoint_it_ends_in_the_same_bits(stage, whole, cut, tmp_path, step):
    cut(step, stage, tmp_path)
    assert max(checkpoint_steps(tmp_path / "checkpoints")) == step
    assert_same(run(stage, tmp_path), whole)


def test_interrupted_before_the_first_checkpoint_it_starts_over(stage, whole, cut, tmp_path):
    cut(0, stage, tmp_path)
    assert [line["step"] for line in lines(tmp_path, "validation.jsonl")] == [0]
    assert_same(run(stage, tmp_path), whole)


def test_interrupted_before_the_model_was_written_it_takes_no_further_step(kdrl_stage, tmp_path):
    # Four steps are an epoch: one that begins after the last step would go on.
    stage = kdrl_stage({"max_steps": 2}, data=HELD_OUT | {"num_examples": 8})
    before = weights(run(stage, tmp_path))
    shutil.rmtree(tmp_path / "model")
    after = weights(run(stage, tmp_path))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [line["step"] for line in lines(tmp_path, "metrics.jsonl")] == [1, 2]


AMID = {"steps_per_generation": 2, "max_steps": 4}


def test_from_a_checkpoint_amid_a_generation_batch_it_goes_on_with_another_batch(
    kdrl_stage, cut, tmp_path
):
    validation = PARTS_OF_ALL["validation"]
    stage = kdrl_stage(AMID, data=HELD_OUT | {"num_examples": 8}, validation=validation)
    whole = run(stage, tmp_path / "whole")
    between = run(stage, cut(2, stage, tmp_path / "between"))
    assert_same(between, whole)
    amid = run(stage, cut(1, stage, tmp_path / "amid"))
    ours, reference = lines(amid, "metrics.jsonl"), lines(whole, "metrics.jsonl")
    assert [line["step"] for line in ours] == [1, 2, 3, 4]
    assert ours[0] == reference[0]
    of_batch = [lines(folder, "rollouts.jsonl")[4:8] for folder in (amid, whole)]
    ours, reference = ([line["completion"] for line in rows] for rows in of_batch)
    assert ours != reference, "TRL keeps the batch in memory alone"
    assert of_batch[0][0]["prompt"] == of_batch[1][0]["prompt"]


def test_a_validation_between_two_steps_of_a_batch_is_not_logged_as_rollouts(kdrl_stage, tmp_path):
    validation = {"data": HELD_OUT | {"split": "validation"}, "steps": 1}
    run(kdrl_stage(AMID | {"max_steps": 2}, validation=validation), tmp_path)
    first, second = (lines(tmp_path, "rollouts.jsonl")[part] for part in (slice(4), slice(4, 8)))
    assert [row | {"step": 2} for row in first] == second


def test_an_adapter_is_merged_into_the_model_and_lies_beside_it(kdrl_stage, models, tmp_path):
    student = {"model_name_or_path": str(models / "student"), "lora": {"r": 2}}
    run(kdrl_stage({"max_steps": 2, "learning_rate": 0.1}, student=student), tmp_path)
    base = AutoModelForCausalLM.from_pretrained(models / "student")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        before = base(ids).logits
        adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")(ids).logits
        assert_close(merged(ids).logits, adapted, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before, adapted, atol=1e-3)
    assert not list((tmp_path / "model").glob("adapter*"))
