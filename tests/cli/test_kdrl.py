"""`llmkd train` of a kdrl stage, killed and ended in the middle, and with code of the user's."""

import signal

import pytest
import torch
from safetensors.torch import load_file

from llmkd import pipeline, run
from llmkd.errors import InputError
from llmkd.recipe import load
from llmkd.run_plan import Run
from llmkd.run_stage import run_stage
from llmkd.training.checkpoints import checkpoint_steps

RECIPE = """
name: own_responses
stages:
  student:
    kind: kdrl
    student: {model_name_or_path: student}
    teacher: {model_name_or_path: teacher}
    data: {kind: task, digits: 1, num_examples: 20, keep_columns: [answer]}
    reward_funcs: [{kind: length, max_length: 5, soft_length: 5}]
    objective: {coefficient: 0.5}
    trainer: {max_steps: 40, per_device_train_batch_size: 4, num_generations: 4, max_completion_length: 5, learning_rate: 1e-2, save_steps: 2, lr_scheduler_type: constant}
"""
STAGE = "runs/own_responses/stages/student"
COUNTING = """
def words(completions, **_):
    return [float(len(text)) for text in completions]
"""


@pytest.fixture
def recipe(tmp_path, tokenizer, tiny_llama, monkeypatch):
    """The recipe's file in the current folder, beside its two models."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    # Stages that are run here are, unlike those of the command line, in this process.
    monkeypatch.setattr(pipeline, "_run_in_child", lambda job, name, *_: run_stage(job, name))
    for seed, name in enumerate(["student", "teacher"]):
        model = tiny_llama(tokenizer, seed=seed, hidden_size=16, num_hidden_layers=1)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    (tmp_path / "kdrl.yaml").write_text(RECIPE)
    return "kdrl.yaml"


def test_killed_and_then_ended_by_sigterm_it_goes_on_to_the_same_weights(llmkd, recipe):
    killed = llmkd.start_until(f"{STAGE}/checkpoints/checkpoint-4", "train", recipe)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    # Written anew once training has begun; from here on only the signal makes checkpoints.
    (llmkd.folder / STAGE / "metrics.jsonl").unlink()
    ended = llmkd.start_until(
        f"{STAGE}/metrics.jsonl", "train", recipe, "stages.student.trainer.save_steps=1000"
    )
    before = max(checkpoint_steps(llmkd.folder / STAGE / "checkpoints"))
    ended.terminate()
    _, err = ended.communicate(timeout=60)
    assert ended.returncode == 143, err
    assert "continues from" in err
    assert before < max(checkpoint_steps(llmkd.folder / STAGE / "checkpoints")) < 40
    cut = Run(load(recipe))
    run_stage(cut, "student")
    whole = Run(load(recipe, ["output_dir=whole"]))
    run_stage(whole, "student")
    ours, reference = (
        load_file(f"{job.product('student')}/model.safetensors") for job in (cut, whole)
    )
    assert all(torch.equal(ours[name], reference[name]) for name in reference)


def test_a_reward_function_of_the_users_runs_with_allow_code_only(recipe, tmp_path):
    (tmp_path / "mine.py").write_text(COUNTING)
    written = "stages.student.reward_funcs=[{kind: function, function: 'mine.py:words'}]"
    own = load(recipe, [written, "stages.student.trainer.max_steps=1"])
    with pytest.raises(InputError, match=r"reward_funcs.0.function: runs `mine.py:words`.*--allow"):
        run(own)
    assert not (tmp_path / STAGE).exists()
    run(own, allow_code=True)
    assert '"rewards/function/mean": ' in (tmp_path / STAGE / "metrics.jsonl").read_text()
