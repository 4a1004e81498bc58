"""The other commands, their streams and exit statuses."""

import json
import statistics
import time

import pytest

SHIPPED = [
    "quickstart",
    "quickstart_table",
    "tinystories",
    "kl",
    "reverse_kl",
    "seq2seq_kl",
    "sinkhorn",
]


def test_help_takes_less_than_half_a_second(llmkd):
    llmkd.run("--help")
    times = []
    for _ in range(3):
        started = time.perf_counter()
        out, _ = llmkd.run("--help")
        times.append(time.perf_counter() - started)
    assert "train" in out
    assert statistics.median(times) < 0.5


def test_recipes_lists_every_shipped_recipe_with_its_description(llmkd):
    out, _ = llmkd.run("recipes", "--json")
    found = json.loads(out)
    assert set(SHIPPED) <= found.keys()
    assert all(found.values())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_passes_check_and_prints_every_default(llmkd, name):
    out, _ = llmkd.run("check", name, "--json")
    found = json.loads(out)
    assert all("kind" in stage for stage in found["recipe"]["stages"].values())
    assert found["stages"].keys() == found["recipe"]["stages"].keys()
    assert found["origins"]["output_dir"] == "default"
    assert found["origins"]["name"].startswith(f"{name}.yaml:")


def test_bad_input_is_told_without_a_traceback(llmkd):
    _, err = llmkd.run("train", "quickstart", "stages.student.losses.1.temprature=2", status=2)
    assert err.strip().endswith("no such field; did you mean `temperature`?")
    _, err = llmkd.run("eval", "nowhere/at/all", status=2)
    assert "nowhere/at/all" in err
    assert "Traceback" not in err


def test_eval_measures_the_perplexity_of_a_text_file(llmkd, tokenizer, tiny_llama):
    model = llmkd.folder / "model"
    tiny_llama(tokenizer).save_pretrained(model)
    tokenizer.save_pretrained(model)
    (llmkd.folder / "text.txt").write_text("1+2=3;4+4=8")
    out, _ = llmkd.run(
        "eval", "model", "--suite", "perplexity", "--data", "text=text.txt", "--json", "--quiet",
        "--output", "results.json",
    )  # fmt: skip
    records = json.loads(out)["results"]
    loss, perplexity, bits, *_ = records
    assert (loss["metric"], perplexity["metric"]) == ("loss_per_token", "perplexity")
    assert perplexity["value"] == pytest.approx(2.718281828 ** loss["value"])
    # 11 characters are 11 tokens, of which the first is not scored where nothing begins a text.
    assert bits["value"] == pytest.approx(loss["value"] / 0.693147181)
    assert json.loads((llmkd.folder / "results.json").read_text()) == records


def test_compare_pairs_runs_by_seed(llmkd):
    values = {0: (0.5, 0.7), 1: (0.4, 0.65), 2: (0.6, 0.85)}
    common = {"suite": "s", "task": "t", "metric": "exact_match", "ci_low": 0, "ci_high": 1}
    for seed, pair in values.items():
        folder = llmkd.folder / f"seed-{seed}"
        folder.mkdir()
        records = [
            {**common, "model": model, "value": value, "num_examples": 9, "seed": seed}
            for model, value in zip(("twin", "student"), pair, strict=True)
        ]
        (folder / "results.json").write_text(json.dumps(records))
    runs = [f"seed-{seed}" for seed in values]
    out, _ = llmkd.run("compare", *runs, "--baseline", "twin", "--json")
    twin, student = json.loads(out)
    assert twin["difference"] is None
    # Differences 0.2, 0.25, 0.25: mean 0.2333, standard error 0.016667, t(2) = 4.3027.
    assert student["difference"] == pytest.approx(0.7 / 3)
    assert student["difference_low"] == pytest.approx(0.7 / 3 - 4.30265 * 0.05 / 3, rel=1e-4)
    assert student["is_claim"]
    out, _ = llmkd.run("compare", *runs)
    assert "| t | exact_match | student | 70, 65, 85 |" in out
    _, err = llmkd.run("compare", "seed-0", "seed-0", status=2)
    assert "different seeds" in err
