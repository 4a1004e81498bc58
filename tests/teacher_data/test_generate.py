import json
import os
import signal
import subprocess
import sys
import time

import pytest

from llmkd.errors import LlmkdError
from llmkd.recipe.schema import GenerateStage
from llmkd.teacher_data import generate as generate_module
from llmkd.teacher_data.generate import run_generate

SEED = 3


@pytest.fixture
def teacher(tiny_llama, tokenizer, tmp_path):
    folder = tmp_path / "teacher"
    tiny_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def stage(teacher, num_examples=23, max_completion_length=12, temperature=1.0, data=None):
    task = {"kind": "task", "num_examples": num_examples, "split": "unlabelled"}
    return GenerateStage.model_validate(
        {
            "kind": "generate",
            "teacher": {"model_name_or_path": str(teacher)},
            "data": data or task,
            "engine": {"batch_size": 4},
            "generation": {
                "temperature": temperature,
                "max_completion_length": max_completion_length,
            },
        }
    )


def run(a_stage, folder, progress=lambda done, total: None):
    return run_generate(a_stage, folder, seed=SEED, progress=progress)


def rows(folder):
    return [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]


class KilledError(Exception):
    pass


def killed_after(num_prompts):
    def progress(done, total):
        if done >= num_prompts:
            raise KilledError

    return progress


def test_cut_and_empty_completions_are_left_out_and_counted(teacher, tmp_path):
    summary = run(stage(teacher), tmp_path / "out")
    kept = rows(tmp_path / "out")
    assert summary == json.loads((tmp_path / "out" / "generation.json").read_text())
    assert summary["num_prompts"] == 23
    assert summary["num_kept"] == len(kept) > 0
    assert summary["num_truncated"] > 0
    assert summary["num_kept"] + summary["num_truncated"] + summary["num_empty"] == 23
    assert summary["num_tokens"] >= 12 * summary["num_truncated"] + 2 * summary["num_kept"]
    assert summary["seconds"] > 0
    assert all(set(row) == {"prompt", "completion"} and row["completion"] for row in kept)


def test_prompts_keep_their_order_and_repeats_stay(teacher, tmp_path):
    prompts = ["1+1=", "2+2=", "1+1="] * 5
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
    a_stage = stage(teacher, max_completion_length=60, data={"dataset_name": str(source)})
    run(a_stage, tmp_path / "out")
    found = [row["prompt"] for row in rows(tmp_path / "out")]
    assert len(found) > 5
    remaining = iter(prompts)
    assert all(prompt in remaining for prompt in found)


def test_progress_is_told_after_every_batch(teacher, tmp_path):
    calls = []
    run(stage(teacher), tmp_path / "out", lambda done, total: calls.append((done, total)))
    assert calls == [(0, 23), (4, 23), (8, 23), (12, 23), (16, 23), (20, 23), (23, 23)]


def test_the_seed_decides_and_batches_differ(teacher, tmp_path):
    source = tmp_path / "prompts.jsonl"
    source.write_text('{"prompt": "1+1="}\n' * 8)
    a_stage = stage(teacher, max_completion_length=60, data={"dataset_name": str(source)})
    run(a_stage, tmp_path / "a")
    run(a_stage, tmp_path / "b")
    run_generate(a_stage, tmp_path / "c", seed=SEED + 1, progress=lambda done, total: None)
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    notes = (tmp_path / "a" / "progress.jsonl").read_bytes().splitlines()
    first_batch = json.loads(notes[0])["num_kept"]
    assert rows(tmp_path / "a")[:first_batch] != rows(tmp_path / "a")[first_batch:]


@pytest.mark.parametrize("num_prompts", [0, 4, 16, 23])
def test_an_interrupted_run_goes_on_to_the_same_end(teacher, tmp_path, num_prompts):
    expected = run(stage(teacher), tmp_path / "whole")
    with pytest.raises(KilledError):
        run(stage(teacher), tmp_path / "out", killed_after(num_prompts))
    assert not (tmp_path / "out" / "generation.json").exists()
    calls = []
    summary = run(stage(teacher), tmp_path / "out", lambda done, total: calls.append(done))
    assert calls[:1] == ([num_prompts] if num_prompts < 23 else [])
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")
    assert summary | {"seconds": 0} == expected | {"seconds": 0}


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda d, n: d.write_bytes(d.read_bytes() + b'{"prompt": "1'), id="torn row"),
        pytest.param(lambda d, n: d.write_bytes(d.read_bytes() + b'{"a": 1}\n'), id="no note yet"),
        pytest.param(lambda d, n: n.write_bytes(n.read_bytes()[:-1]), id="note without its end"),
        pytest.param(lambda d, n: n.write_bytes(n.read_bytes()[:-40]), id="torn note"),
        pytest.param(lambda d, n: n.write_bytes(n.read_bytes() + b"\0\0\0\n"), id="zeros in notes"),
        pytest.param(lambda d, n: d.write_bytes(d.read_bytes()[:-9]), id="data cut short"),
        pytest.param(lambda d, n: n.unlink(), id="notes lost"),
        pytest.param(lambda d, n: d.unlink(), id="data lost"),
    ],
)
def test_whatever_a_kill_leaves_behind_the_end_is_the_same(teacher, tmp_path, damage):
    run(stage(teacher), tmp_path / "whole")
    out = tmp_path / "out"
    with pytest.raises(KilledError):
        run(stage(teacher), out, killed_after(12))
    damage(out / "data.jsonl", out / "progress.jsonl")
    run(stage(teacher), out)
    assert (out / "data.jsonl").read_bytes() == (tmp_path / "whole" / "data.jsonl").read_bytes()


def test_kill_9_in_the_middle_loses_nothing(teacher, tmp_path):
    out, a_stage = tmp_path / "out", stage(teacher, num_examples=400)
    program = (
        "import sys; from pathlib import Path; from llmkd.recipe.schema import GenerateStage;"
        "from llmkd.teacher_data.generate import run_generate;"
        "run_generate(GenerateStage.model_validate_json(sys.argv[1]), Path(sys.argv[2]),"
        f" seed={SEED}, progress=lambda done, total: None)"
    )
    command = [sys.executable, "-c", program, a_stage.model_dump_json(), str(out)]
    child = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    notes = out / "progress.jsonl"
    deadline = time.monotonic() + 60
    while not (notes.exists() and notes.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    num_noted = len(notes.read_bytes().splitlines())
    assert 0 < num_noted < 100
    calls = []
    run(a_stage, out, lambda done, total: calls.append(done))
    assert calls[0] >= 4
    run(a_stage, tmp_path / "whole")
    assert rows(out) == rows(tmp_path / "whole")


def test_a_finished_run_is_not_done_again(teacher, tmp_path, monkeypatch):
    summary = run(stage(teacher), tmp_path / "out")
    monkeypatch.setattr(generate_module, "load_for_inference", lambda source: pytest.fail("loaded"))
    assert run(stage(teacher), tmp_path / "out") == summary


def test_another_stage_in_the_same_folder_starts_over(teacher, tmp_path):
    run(stage(teacher), tmp_path / "out")
    other = stage(teacher, num_examples=9)
    run(other, tmp_path / "out")
    run(other, tmp_path / "fresh")
    assert rows(tmp_path / "out") == rows(tmp_path / "fresh")


def test_nothing_left_says_what_to_change(teacher, tmp_path):
    with pytest.raises(LlmkdError, match=r"had no end within 1 tokens.*write a larger max_comp"):
        run(stage(teacher, num_examples=3, max_completion_length=1, temperature=0), tmp_path / "o")
