"""The stage within a recipe: what refuses it, what it makes, and who takes that."""

import json
import re

import pytest
import yaml
from typer.testing import CliRunner

from llmkd.check.deep import try_stages
from llmkd.cli import app
from llmkd.errors import InputError
from llmkd.recipe import load
from llmkd.recipe.classification_checks import kind_problems
from llmkd.recipe.references import needed_for
from llmkd.recipe.schema import Recipe
from llmkd.run_folder import read_stage
from llmkd.run_plan import Run
from llmkd.run_stage import run_stage

SLERP = {"kind": "slerp", "weight": 0.25}


@pytest.fixture
def recipe(tmp_path, saved, monkeypatch):
    """Writes a recipe that merges two folders, and what is given besides; gives its path."""
    monkeypatch.chdir(tmp_path)

    def write(method=SLERP, models=None, **stages):
        if models is None:
            models = [str(saved("a", 1)), str(saved("b", 2))]
        merged = {"kind": "merge", "models": models, "method": method}
        content = {
            "name": "tiny",
            "output_dir": str(tmp_path / "run"),
            "stages": {"merged": merged} | stages,
        }
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


def again(source):
    return {"kind": "merge", "models": [source, source], "method": {"kind": "linear"}}


def tuned(source):
    return {
        "kind": "train",
        "student": {"model_name_or_path": source},
        "data": {"kind": "task", "digits": 1, "num_examples": 8},
        "losses": [{"kind": "cross_entropy"}],
        "trainer": {"max_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True},
    }


def test_a_later_stage_takes_the_merged_model(recipe, tmp_path):
    path = recipe(again=again("stage:merged"), tuned=tuned("stage:again"))
    job = Run(load(path))
    for name in job.recipe.stages:
        run_stage(job, name)
    folder = tmp_path / "run/stages/merged/model"
    assert job.product("merged") == str(folder)
    found, copied = (
        (tmp_path / f"run/stages/{name}/model/model.safetensors").read_bytes()
        for name in ("merged", "again")
    )
    assert found == copied
    assert (tmp_path / "run/stages/tuned/model/config.json").exists()
    assert needed_for(job.recipe, ["again"]) == ["merged", "again"]


def test_a_merge_that_was_cut_off_ends_in_the_same_bytes(recipe, tmp_path, monkeypatch):
    job = Run(load(recipe()))
    run_stage(job, "merged")
    folder = tmp_path / "run/stages/merged"
    whole = {path.name: path.read_bytes() for path in (folder / "model").iterdir()}
    stage = read_stage(folder)
    for path in (folder / "model").iterdir():
        path.unlink()
    (folder / "model").rmdir()
    assert stage is not None
    assert stage.is_finished
    assert not job.has_product("merged")
    # As kill -9 leaves it: a folder with part of the weights.
    (folder / ".model.staging").mkdir()
    (folder / ".model.staging/model-00001-of-00002.safetensors").write_bytes(b"half")
    run_stage(job, "merged")
    assert {path.name: path.read_bytes() for path in (folder / "model").iterdir()} == whole
    assert sorted(path.name for path in folder.iterdir()) == ["model", "stage.json"]


def test_other_weights_make_another_stage_of_it(recipe, saved, tmp_path):
    job = Run(load(recipe()))
    before = job.inputs("merged")
    saved("b", 3)
    assert job.inputs("merged") != before
    base = {"kind": "task_arithmetic", "base": str(tmp_path / "b")}
    job = Run(load(recipe(base, [str(tmp_path / "a")])))
    before = job.inputs("merged")
    saved("b", 4)
    assert job.inputs("merged") != before


@pytest.mark.parametrize(
    ("method", "models", "expected"),
    [
        (SLERP, ["a", "b", "c"], ":6 stages.merged.models: slerp is between two models"),
        ({"kind": "linear", "weights": [1.0]}, ["a", "b"], "stages.merged.method.weights: 1 weights"),
        ({"kind": "task_arithmetic", "base": "stage:late"}, ["a"], "stages.merged.method.base: stage `late` comes later"),
        (SLERP, ["stage:merged", "b"], "stages.merged.models.0: stage:merged is this stage itself"),
        (SLERP, ["./nowhere", "b"], "stages.merged.models.0: ./nowhere does not exist"),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_be_merged_is_told_at_its_line(recipe, method, models, expected):
    path = recipe(method, models, late=tuned("a"))
    with pytest.raises(InputError) as caught:
        load(path)
    assert any(expected in problem for problem in caught.value.problems), caught.value.problems


def test_a_merged_classifier_is_no_language_model():
    classifier = {
        "kind": "train",
        "student": {"model_name_or_path": "org/encoder"},
        "data": {"kind": "classification", "dataset_name": "org/rows"},
        "losses": [{"kind": "cross_entropy"}],
    }
    stages = {"classifier": classifier, "merged": again("stage:classifier"), "tuned": tuned("stage:merged")}  # fmt: skip
    found = Recipe.model_validate_json(json.dumps({"name": "r", "stages": stages}))
    problems = list(kind_problems(found.stages, {}))
    assert [problem.key for problem in problems] == [
        ("stages", "tuned", "student", "model_name_or_path")
    ]


def test_check_deep_tries_one_tensor_and_writes_nothing_to_the_run(recipe, tmp_path):
    path = recipe(again=again("stage:merged"), tuned=tuned("stage:again"))
    found = list(try_stages(Run(load(path)), told=lambda _: None))
    assert [(one.name, one.stand_ins) for one in found] == [
        ("merged", []),
        ("again", ["merged"]),
        ("tuned", ["again"]),
    ]
    assert found[2].batch is not None
    assert not (tmp_path / "run").exists()


def test_the_command_merges_folders(recipe, saved, tmp_path):
    recipe()
    saved("wide", 1, hidden_size=16)
    out = str(tmp_path / "out")
    names = ["merge", str(tmp_path / "a"), str(tmp_path / "b"), "--output", out]
    runner = CliRunner()
    found = runner.invoke(app, [*names, "--method", "slerp", "--weight", "0.25", "--json"])
    assert found.exit_code == 0
    told = json.loads(found.stdout)
    assert (told["output"], told["method"]) == (out, SLERP)
    assert json.loads((tmp_path / "out/merge.json").read_text())["num_tensors"] == 21
    refused = runner.invoke(app, [*names, "--method", "slerp"])
    assert (refused.exit_code, "is there already" in refused.stderr) == (2, True)
    for options, expected in (
        (["--method", "linear", "--weight", "1"], "--weight: 1 weights for 2 models"),
        (["--method", "linear", "--weight", "1", "--weight", "-1"], "--weight: their sum is 0"),
        (["--method", "linear", "--weight", "nan", "--weight", "1"], "--weight: input should be"),
        (["--method", "slerp", "--weight", "2"], "--weight: input should be less than or equal"),
        (["--method", "slerp", "--weight", "0.5", "--weight", "0.5"], "--weight: slerp has one"),
        (["--method", "slerp", "--base", "a"], "write --method task_arithmetic --base MODEL"),
        (["--method", "task_arithmetic"], "write --method task_arithmetic --base MODEL"),
        (["--max-shard-size", "5"], "--max-shard-size: input should match"),
        (
            [str(tmp_path / "a")],
            "MODELS: slerp is between two models, and here are 3; name two, or write --method linear",
        ),
        (["--method", "task_arithmetic", "--base", str(tmp_path / "wide")], "model 1: "),
        (["--method", "linear", str(tmp_path / "wide")], "than model 1 ("),
        (["--method", "ties"], "slerp, linear or task_arithmetic"),
    ):
        refused = runner.invoke(app, ["merge", *names[1:3], "--output", f"{out}2", *options])
        assert refused.exit_code == 2, options
        assert expected in refused.stderr, refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
        assert not re.search(r"stages\.|method\.|models\.\d", refused.stderr)
    assert not (tmp_path / "out2").exists()
