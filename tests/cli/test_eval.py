"""`llmkd eval` as a person runs it: several models, tasks that fail, commands that are wrong."""

import json

import pytest
from typer.testing import CliRunner

from llmkd.cli import app

SUITE = """\
name: mine
tasks:
  - {kind: exact_match, name: sums, data: {kind: task, digits: 1, num_examples: 5, split: test}, max_completion_length: 4}
  - {kind: perplexity, name: text, data: {dataset_name: text.jsonl, max_length: 32}}
"""


@pytest.fixture
def models(llmkd, tokenizer, tiny_llama):
    for seed, name in enumerate(("first", "second")):
        tiny_llama(tokenizer, seed=seed).save_pretrained(llmkd.folder / name)
        tokenizer.save_pretrained(llmkd.folder / name)
    (llmkd.folder / "suite.yaml").write_text(SUITE)
    return ["first", "second"]


def test_models_are_compared_and_a_broken_task_costs_the_others_nothing(llmkd, models):
    (llmkd.folder / "text.jsonl").write_text('{"text": "1+2=3"}\n{"text": "12;#12"}\n')
    command = ["eval", *models, "--suite", "suite.yaml", "--output-dir", "out", "--json"]
    out, err = llmkd.run(*command)
    found = json.loads(out)
    assert {record["model"] for record in found["results"]} == set(models)
    assert {one["model"] for one in found["differences"]} == {"second"}
    assert {one["metric"] for one in found["differences"]} >= {"exact_match", "loss_per_token"}
    assert all(one["baseline"] == "first" for one in found["differences"])
    folder = llmkd.folder / "out"
    assert json.loads((folder / "results.json").read_text()) == found["results"]
    assert "less first" in (folder / "report.html").read_text()
    # Again: nothing is measured twice.
    again, err = llmkd.run(*command)
    assert json.loads(again)["results"] == found["results"]
    assert "finished before" in err
    # Too far down to be seen before it runs.
    rows = '{"text": "1+1=2"}\n' * 300 + '{"text": 5}\n'
    (llmkd.folder / "text.jsonl").write_text(rows)
    command[6] = "broken"
    out, err = llmkd.run(*command, status=1)
    results = json.loads(out)["results"]
    assert [record["task"] for record in results] == ["sums", "sums"]
    assert results == [one for one in found["results"] if one["task"] == "sums"]
    assert "failed: text of first:" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--suite", "procedurall"], "did you mean `procedural`?"),
        (["--suite", "perplexity", "--tasks", "texd"], "did you mean `text`?"),
        (["--suite", "perplexity", "--data", "texd=a.txt"], "did you mean `text`?"),
        (["--suite", "perplexity", "--data", "text=a.txt"], "a.txt"),
        (["--suite", "perplexity", "--columns", "text.text=body"], "write --data text=FILE too"),
        (["--num-samples", "4"], "no task of suite procedural has"),
        (["--suite", "distillation"], "compares with a teacher"),
        (["--engine", "vlm"], "--engine: no such kind"),
        (["--batch-size", "many"], "--batch-size: input should be an integer or `auto`"),
        (["--teacher", "./nowhere"], "--teacher: ./nowhere does not exist"),
        (["./n"], "model 2: ./n does not exist"),
        (["--engine", "vllm"], "no task of suite procedural writes by vllm"),
    ],
)
def test_a_wrong_command_is_told_before_anything_is_measured(
    tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    done = CliRunner().invoke(app, ["eval", "./m", *options])
    assert done.exit_code == 2, done.output
    assert message in done.output.replace("\n", " ")
    assert not (tmp_path / "runs").exists()
