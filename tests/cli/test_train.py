"""`llmkd train` from YAML to results, interrupted and repeated in every way that users do."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess

import psutil
import pytest
import torch
from safetensors.torch import load_file


def weights(folder, stage):
    return load_file(folder / "stages" / stage / "model" / "model.safetensors")


def metrics(folder, stage):
    """What was logged, but for what the clock and the system decide."""
    timed = {"tokens_per_s", "peak_memory_gib"}
    lines = (folder / "stages" / stage / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]


def assert_same_products(ours, reference):
    for stage in ("teacher", "student"):
        a, b = weights(ours, stage), weights(reference, stage)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a), stage
    for stage in ("teacher", "student"):
        assert metrics(ours, stage) == metrics(reference, stage)
    data = "stages/teacher_data/data.jsonl"
    assert (ours / data).read_bytes() == (reference / data).read_bytes()
    assert (ours / "results.json").read_text() == (reference / "results.json").read_text()


def test_a_recipe_becomes_models_and_a_measured_table(llmkd, recipe):
    out, err = llmkd.run("train", recipe, "--json")
    printed = json.loads(out)["results"]
    run = llmkd.folder / "runs" / "tiny"
    for name in ("recipe.resolved.yaml", "environment.json", "results.json"):
        assert (run / name).exists()
    records = json.loads((run / "results.json").read_text())
    assert printed == records
    assert {record["model"] for record in records} == {"teacher", "student"}
    assert {record["metric"] for record in records} == {
        "exact_match", "loss_per_token", "perplexity", "bits_per_byte", "byte_perplexity",
        "word_perplexity",
    }  # fmt: skip
    assert all(record["seed"] == 3 for record in records)
    assert "[4/4] evaluation: done" in err
    details = json.loads((run / "stages" / "evaluation" / "details.json").read_text())
    assert {sample["task"] for sample in details["samples"]} == {"sums", "written"}
    for sample in details["samples"]:
        assert sample["answers"].keys() == {"teacher", "student"}
    assert [(one["task"], one["model"]) for one in details["lengths"]] == [
        ("sums", "teacher"), ("sums", "student"),
    ]  # fmt: skip
    assert [one["model"] for one in details["reliability"]] == ["teacher", "student"]
    card = (run / "stages" / "student" / "model" / "README.md").read_text()
    assert "| written | perplexity |" in card
    assert str(run.relative_to(llmkd.folder) / "stages" / "teacher" / "model") in card

    # Again: nothing to do, the same results, as a table.
    out, err = llmkd.run("train", recipe, "--quiet")
    assert "perplexity" in out
    assert err == ""


def test_killed_at_any_moment_it_ends_in_the_same_bits(llmkd, recipe, finished_run):
    # Killed when these have appeared: inside a stage, between two, and at a checkpoint.
    moments = [
        "stages/teacher/metrics.jsonl",
        "stages/teacher/checkpoints/checkpoint-4",
        "stages/teacher_data/stage.json",
        "stages/student/checkpoints/checkpoint-2",
        "stages/evaluation/stage.json",
    ]
    for moment in moments:
        process = llmkd.start_until(f"cut/{moment}", "train", recipe, "output_dir=cut")
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    llmkd.run("train", recipe, "output_dir=cut")
    assert_same_products(llmkd.folder / "cut", finished_run)


@pytest.mark.slow
def test_killed_at_fifty_random_moments_it_ends_in_the_same_bits(llmkd, recipe, finished_run):
    moments, num_kills, num_runs = random.Random(0), 0, 0
    while num_kills < 50:
        process = llmkd.start("train", recipe, f"output_dir=cut-{num_runs}")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moments.uniform(0.2, 8))
        process.kill()
        _, err = process.communicate()
        if process.returncode == -signal.SIGKILL:
            num_kills += 1
            continue
        assert process.returncode == 0, err
        assert_same_products(llmkd.folder / f"cut-{num_runs}", finished_run)
        num_runs += 1
    llmkd.run("train", recipe, f"output_dir=cut-{num_runs}")
    assert_same_products(llmkd.folder / f"cut-{num_runs}", finished_run)


def test_a_product_that_was_deleted_is_made_again(llmkd, recipe, finished):
    before = weights(finished, "student")
    shutil.rmtree(finished / "stages/student/model")
    _, err = llmkd.run("train", recipe)
    assert "student: train" in err
    assert "teacher: finished before" in err
    after = weights(finished, "student")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_sigterm_while_generating_exits_143_and_goes_on(llmkd, recipe, finished, finished_run):
    for stage in ("teacher_data", "student", "evaluation"):
        shutil.rmtree(finished / "stages" / stage)
    begun = "runs/tiny/stages/teacher_data/stage.json"
    process = llmkd.start_until(begun, "train", recipe)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "ended by SIGTERM in stage" in err
    llmkd.run("train", recipe)
    assert_same_products(finished, finished_run)


@pytest.mark.usefixtures("finished")
def test_what_does_not_change_the_model_may_change_on_the_way(llmkd, recipe):
    _, err = llmkd.run("train", recipe, "stages.student.trainer.save_steps=3")
    assert "student: finished before" in err


@pytest.mark.usefixtures("finished")
def test_data_that_a_suites_file_names_is_part_of_the_stages_inputs(llmkd, recipe):
    suite = (
        "name: texts\ntasks:\n"
        "- {kind: perplexity, name: written, data: {dataset_name: text.jsonl, max_length: 32}}\n"
    )
    (llmkd.folder / "texts.yaml").write_text(suite)
    llmkd.run("train", recipe, "stages.evaluation.suite=texts.yaml", "--overwrite")
    (llmkd.folder / "text.jsonl").write_text('{"text": "9+9=8"}\n')
    _, err = llmkd.run("train", recipe, "stages.evaluation.suite=texts.yaml", status=2)
    assert "files.text.jsonl changed" in err


def test_sigterm_saves_and_exits_143(llmkd, recipe):
    # No checkpoint comes by itself, so the one there is comes from the signal.
    stage = "runs/tiny/stages/teacher"
    process = llmkd.start_until(
        f"{stage}/metrics.jsonl", "train", recipe,
        "stages.teacher.trainer.max_steps=100000",
        "stages.teacher.trainer.save_steps=50000",
    )  # fmt: skip
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert len(list((llmkd.folder / stage).glob("checkpoints/checkpoint-*"))) == 1


@pytest.mark.parametrize(
    "launch",
    [
        [],
        pytest.param(["--launch", "ddp", "--num-processes", "2"], marks=pytest.mark.slow),
    ],
)
def test_sigterm_to_every_process_saves_though_workers_read_the_rows(llmkd, recipe, launch):
    stage = "runs/tiny/stages/teacher"
    process = llmkd.start_until(
        f"{stage}/metrics.jsonl", "train", recipe, *launch,
        "stages.teacher.trainer.max_steps=100000",
        "stages.teacher.trainer.save_steps=50000",
        "stages.teacher.trainer.dataloader_num_workers=1",
        "stages.teacher.trainer.dataloader_persistent_workers=true",
    )  # fmt: skip
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) == (5 if launch else 2)
    for each in [*started, process]:
        each.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "Error" not in err
    assert len(list((llmkd.folder / stage).glob("checkpoints/checkpoint-*"))) == 1
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not alive


def test_a_changed_recipe_does_not_touch_an_old_folder_unless_asked(llmkd, recipe, finished):
    change = "stages.student.trainer.learning_rate=5e-3"
    before = weights(finished, "student")
    _, err = llmkd.run("train", recipe, change, status=2)
    assert "stages.student: trainer.learning_rate changed since" in err
    assert "--overwrite" in err
    _, err = llmkd.run("train", recipe, change, "--overwrite")
    assert "teacher: finished before" in err
    assert "teacher_data: finished before" in err
    after = weights(finished, "student")
    assert not all(torch.equal(before[name], after[name]) for name in before)


def test_two_runs_in_one_folder_are_refused(llmkd, recipe):
    first = llmkd.start_until("runs/tiny/stages/teacher/stage.json", "train", recipe)
    _, err = llmkd.run("train", recipe, status=2)
    assert "in use by another run" in err
    # The first goes on until it is ended, and not by the second.
    first.terminate()
    _, err = first.communicate(timeout=120)
    assert first.returncode == 143, err


def test_a_failed_stage_names_its_traceback_and_keeps_the_others(llmkd, recipe, finished):
    # Too far down to be seen before the run.
    (llmkd.folder / "broken.jsonl").write_text('{"text": "1+1=2"}\n' * 300 + '{"text": 5}\n')
    text = "stages.evaluation.suite.tasks.1.data.dataset_name=broken.jsonl"
    _, err = llmkd.run("train", recipe, text, "--overwrite", status=1)
    assert "Traceback" not in err
    assert "failed: " in err
    assert "broken.jsonl" in err
    # The task that could be measured was.
    records = json.loads((finished / "results.json").read_text())
    assert {record["task"] for record in records} == {"sums"}
    assert (finished / "stages/student/model/model.safetensors").exists()


def test_an_unforeseen_error_is_one_line_with_the_traceback_in_a_file(llmkd, recipe):
    # A folder stands where the stage writes a file.
    stage = llmkd.folder / "runs" / "tiny" / "stages" / "teacher"
    (stage / "metrics.jsonl").mkdir(parents=True)
    _, err = llmkd.run("train", recipe, status=1)
    assert "Traceback" in (stage / "error.log").read_text()
    assert "Traceback" not in err
    assert "error.log)" in err
    _, err = llmkd.run("train", recipe, "--debug", status=1)
    assert "Traceback" in err
