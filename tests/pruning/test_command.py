"""`llmkd prune`: a model folder, or a report of what each size costs."""

import copy
import json
import math
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from typer.testing import CliRunner

from llmkd.cli import app
from llmkd.progress import QUIET
from llmkd.pruning.bypass import bypassed
from llmkd.pruning.surgery import remove_layers

ROWS = [{"text": f"{i}+{i % 7}={i + i % 7};"} for i in range(40)]


@pytest.fixture
def place(tmp_path, tokenizer, tiny_llama, monkeypatch):
    """A folder with a model of four layers and forty rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(QUIET, "1")  # As `--quiet` sets it, and taken back behind each test.
    tiny_llama(tokenizer, num_hidden_layers=4).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for name, rows in (("rows", ROWS), ("few", ROWS[:3])):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    return tmp_path


def prune(*arguments):
    return CliRunner().invoke(app, ["prune", *map(str, arguments), "--quiet"])


def perplexity(model, tokenizer, rows):
    """By transformers' own loss, row by row."""
    total = num_tokens = 0
    for row in rows:
        ids = [tokenizer.bos_token_id, *tokenizer(row["text"], add_special_tokens=False).input_ids]
        ids = torch.tensor([[*ids, tokenizer.eos_token_id]])
        with torch.no_grad():
            total += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        num_tokens += ids.shape[1] - 1
    return math.exp(total / num_tokens), num_tokens


def test_bypassed_layers_are_as_good_as_cut_out_and_come_back(model, batch):
    def logits(of):
        with torch.no_grad():
            return of(**batch, use_cache=False).logits[batch["attention_mask"].bool()]

    whole, shorter = logits(model), copy.deepcopy(model)
    remove_layers(shorter, [1, 3])
    with bypassed(model, [1, 3]):
        found = logits(model)
    assert torch.allclose(found, logits(shorter), atol=1e-5)
    assert not torch.allclose(found, whole, atol=1e-2)
    assert torch.equal(logits(model), whole)


def test_the_report_measures_every_size_that_pruning_would_give(place, tokenizer):
    held_out = ["--held-out", "few.jsonl", "--num-held-out", 3, "--batch-size", 2]
    done = prune(
        "model", "--data", "rows.jsonl", "--num-examples", 9, "--report", "--json", *held_out
    )
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["report"], found["num_examples"], found["num_held_out"]) == ("pruning.html", 9, 3)
    # Of four layers the first and the last stay.
    assert [size["num_removed"] for size in found["sizes"]] == [0, 1, 2]
    for size in found["sizes"]:
        for choice in size["choices"]:
            model = AutoModelForCausalLM.from_pretrained("model").eval()
            remove_layers(model, choice["layers"])
            expected, num_tokens = perplexity(model, tokenizer, ROWS[:3])
            assert choice["perplexity"] == pytest.approx(expected, rel=1e-5)
            assert choice["ci_low"] <= choice["perplexity"] <= choice["ci_high"]
            assert len(choice["layers"]) == size["num_removed"]
            assert size["parameters"] == model.num_parameters()
    assert found["num_held_out_tokens"] == num_tokens
    flops = [size["flops_per_token"] for size in found["sizes"]]
    assert flops[0] - flops[1] == pytest.approx(flops[1] - flops[2])
    by_angle, by_influence = found["sizes"][1]["choices"]
    angles, influence = found["angular_distances"][0], found["block_influence"]
    assert by_angle["layers"] == [min((1, 2), key=angles.__getitem__)]
    assert by_influence["layers"] == [min((1, 2), key=influence.__getitem__)]


def test_the_page_has_all_of_it_and_loads_nothing(place):
    arguments = [
        "--num-examples",
        9,
        "--num-held-out",
        5,
        "--report",
        "--json",
        "--output",
        "p.html",
    ]
    done = prune("model", "--data", "rows.jsonl", *arguments)
    found, page = json.loads(done.stdout), (place / "p.html").read_text()
    rows = re.findall(r"<tr><td.*?</tr>", page, re.DOTALL)
    assert len(rows) == 3
    for row, size in zip(rows, found["sizes"], strict=True):
        assert f"{size['parameters']:,}" in row
        assert f"{size['choices'][1]['perplexity']:.4g}" in row
    assert page.count("<svg") == 4
    assert "src=" not in page.split("<body>")[1]
    assert "http" not in page.split("<body>")[1].split("<script>")[0]
    # Whole numbers of layers alone are written on the axes.
    assert ">0.5<" not in page.split("layers removed</text>")[0].split("Lower is better")[0][-900:]
    # An older page is replaced, another file is not.
    assert prune("model", "--data", "rows.jsonl", *arguments).exit_code == 0
    (place / "p.html").write_text("mine")
    refused = prune("model", "--data", "rows.jsonl", *arguments)
    assert (refused.exit_code, (place / "p.html").read_text()) == (2, "mine")


@pytest.mark.parametrize("named", [(), ("--held-out", "rows.jsonl")])
def test_rows_that_calibrate_are_not_held_out(place, monkeypatch, named):
    from llmkd.pruning import run_survey

    seen = []
    drawn = run_survey.drawn_rows

    def spied(stage, *arguments, **options):
        rows = drawn(stage, *arguments, **options)
        seen.append({tuple(row["input_ids"]) for row in rows})
        return rows

    monkeypatch.setattr(run_survey, "drawn_rows", spied)
    monkeypatch.setattr("llmkd.pruning.calibration.drawn_rows", spied)
    done = prune(
        "model",
        "--data",
        "rows.jsonl",
        "--num-examples",
        30,
        "--num-held-out",
        10,
        "--report",
        *named,
    )
    assert done.exit_code == 0
    calibration, held_out = seen
    assert (len(calibration), len(held_out)) == (30, 10)
    assert not calibration & held_out


def test_without_report_it_writes_a_model_folder(place):
    options = [
        "--remove-layers",
        2,
        "--intermediate-size",
        24,
        "--num-examples",
        9,
        "--output",
        "out",
    ]
    done = prune("model", "--data", "rows.jsonl", *options)
    assert (done.exit_code, done.stdout) == (0, "out\n")
    config = AutoModelForCausalLM.from_pretrained("out").config
    assert (config.num_hidden_layers, config.intermediate_size) == (2, 24)
    assert json.loads((place / "out/pruning.json").read_text())["removed_layers"] == [1, 2]
    assert sorted(p.name for p in place.iterdir()) == ["few.jsonl", "model", "out", "rows.jsonl"]
    refused = prune("model", "--data", "rows.jsonl", *options)
    assert refused.exit_code == 2
    assert "out is there already" in refused.stderr


REPORT = ["--data", "rows.jsonl", "--num-examples", 9, "--num-held-out", 5, "--report"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--data", "rows.jsonl", "--report"],
            "--num-examples: the calibration set has 40 rows, and 256 are asked for; write "
            "--num-examples 40, or",
        ),
        ([*REPORT, "--num-held-out", 32], "32 rows are asked for, and 31 are there besides 9"),
        ([*REPORT, "--num-examples", 40], "5 rows are asked for, and 0 are there besides 40"),
        ([*REPORT, "--held-out", "few.jsonl"], "5 rows are asked for, and 3 are there"),
        ([*REPORT, "--held-out", "nowhere.jsonl"], "nowhere.jsonl"),
        ([*REPORT, "--held-out", "other.jsonl"], "--held-out: other.jsonl: the columns are a"),
        (
            [*REPORT, "--remove-layers", 3],
            "--remove-layers: 3 of 4 layers cannot go, as the first 1 (--protect-first) and",
        ),
        ([*REPORT, "--protect-first", 3], "of 4 layers none is left to go"),
        ([*REPORT, "--intermediate-size", 8], "--report: measures what layers cost"),
        (["--report"], "--data: missing"),
        (["--data", "rows.jsonl", "--output", "out"], "write --remove-layers, --intermediate-size"),
        ([*REPORT, "--importance", "angular"], "--importance: input should be"),
        ([*REPORT, "--dtype", "half"], "--dtype: input should be"),
        ([*REPORT, "--max-length", 1], "--max-length: input should be greater than 1"),
        (
            ["--data", "rows.jsonl", "--output", "out", "--intermediate-size", 0],
            "--intermediate-size: input should be greater than 0; got 0",
        ),
        ([*REPORT, "--num-key-value-heads", 0], "--report: measures what layers cost"),
        (["--data", "rows.jsonl", "--remove-layers", 1], "--output: missing"),
    ],
)
def test_what_cannot_be_done_is_told(place, arguments, expected):
    (place / "other.jsonl").write_text('{"a": 1}\n')
    there = sorted(place.iterdir())
    done = prune("model", *arguments)
    assert done.exit_code == 2, done.output
    assert expected in done.stderr
    assert not re.search(
        r"stages\.|depth\.|width\.|[a-z]_(layers|examples|held|length)", done.stderr
    )
    assert sorted(place.iterdir()) == there


def test_a_type_in_which_the_model_overflows_is_told_with_the_option(place):
    model = AutoModelForCausalLM.from_pretrained("model")
    model.model.layers[1].mlp.down_proj.weight.data *= 3e4
    model.save_pretrained("model")
    options = ["--data", "rows.jsonl", "--remove-layers", 1, "--num-examples", 9]
    refused = prune("model", *options, "--dtype", "float16", "--output", "out")
    assert (refused.exit_code, refused.stderr.split(":")[0]) == (2, "--dtype")
    assert "write --dtype float32" in refused.stderr
    assert prune("model", *options, "--output", "out").exit_code == 0


def test_an_unknown_architecture_is_refused(place, tokenizer):
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=3, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(place / "gpt2")
    tokenizer.save_pretrained(place / "gpt2")
    done = prune("gpt2", *REPORT)
    assert done.exit_code == 2
    assert "gpt2 is no architecture that can be pruned yet" in done.stderr
