"""kill -9 in the middle of `llmkd eval`, at moments of every kind of task, and the same command again."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import yaml

NUM_ROWS = 60
DEFINITION = {
    "dataset_path": "none",
    "test_split": "test",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "target_delimiter": "",
}
CHOICE = {
    **DEFINITION,
    "output_type": "multiple_choice",
    "doc_to_choice": ["1", "2", "3"],
    "doc_to_target": "{{label}}",
}
WRITTEN = {
    **DEFINITION,
    "output_type": "generate_until",
    "generation_kwargs": {"until": ["#"], "do_sample": False, "max_gen_toks": 6},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
ROWS = {"dataset_name": "rows.jsonl"}
TASKS = [
    {"kind": "perplexity", "name": "text", "data": {**ROWS, "max_length": 32}},
    {
        "kind": "reasoning",
        "name": "asked",
        "grader": "exact_match",
        "data": ROWS,
        "generation": {"max_completion_length": 12, "temperature": 1.0, "num_samples": 2},
    },
    {"kind": "lm_eval", "name": "choice", "definition": CHOICE, "data": ROWS},
    {"kind": "lm_eval", "name": "written", "definition": WRITTEN, "data": ROWS},
]


def start(folder):
    command = ["eval", "./model", "--suite", "suite.yaml", "--output-dir", "out"]
    return subprocess.Popen(
        [sys.executable, "-m", "llmkd", *command, "--batch-size", "4"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # A group of its own, so that the stage's process dies with its parent.
        start_new_session=True,
    )


def answers(run):
    """What is kept of each task."""
    folder = run / "stages/evaluation"
    return {path.parent.name: path.read_bytes() for path in sorted(folder.rglob("answers.jsonl"))}


@pytest.mark.slow
def test_what_was_answered_before_a_kill_is_kept_and_the_results_are_those_without_one(
    tmp_path, tokenizer, tiny_llama
):
    tiny_llama(tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"name": "all", "tasks": TASKS}))
    rows = [
        {"question": f"{i**3}+{i}=", "answer": str(i**3 + i), "text": f"{i}+{i**2}", "label": i % 3}
        for i in range(NUM_ROWS)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert start(tmp_path).wait() == 0
    whole, run = tmp_path / "whole", tmp_path / "out"
    run.rename(whole)
    expected = answers(whole)
    assert len(expected) == len(TASKS)
    moments = random.Random(3)
    for task, content in expected.items():
        num_lines = moments.randrange(1, content.count(b"\n"))
        kept = run / f"stages/evaluation/answers/model-0/{task}/answers.jsonl"
        process = start(tmp_path)
        deadline = time.monotonic() + 300
        while not kept.exists() or kept.read_bytes().count(b"\n") < num_lines:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (run / "results.json").exists()
        # Nothing that was there before is written anew, and the last line alone may be cut.
        for name, found in answers(run).items():
            assert expected[name].startswith(found)
    assert start(tmp_path).wait() == 0
    assert answers(run) == expected
    assert json.loads((run / "results.json").read_text()) == json.loads(
        (whole / "results.json").read_text()
    )
