import json

import pytest

from llmkd import pipeline
from llmkd.errors import InputError
from llmkd.evaluation.results import Record, write_results
from llmkd.recipe.schema import Recipe
from llmkd.run_plan import Run
from llmkd.run_stage import run_stage

TRAIN = {
    "kind": "train",
    "student": {"kind": "scratch", "config": {"model_type": "llama"}},
    "data": {"kind": "task", "num_examples": 9},
    "losses": [{"kind": "cross_entropy"}],
}
EVALUATE = {"kind": "evaluate", "models": ["stage:student"], "suite": "procedural"}


@pytest.fixture
def make_recipe(tmp_path):
    """A recipe with its folder."""

    def make(rate=1e-3, **stages):
        train = {**TRAIN, "trainer": {"learning_rate": rate}}
        content = {"name": "tiny", "output_dir": str(tmp_path / "run")}
        stages = {"student": train, **stages}
        return Recipe.model_validate_json(json.dumps({**content, "stages": stages}))

    return make


@pytest.fixture
def trained(monkeypatch):
    """Stages leave their product at once, in this process; the names of those that ran."""
    names = []

    def do(job, stage, folder, name):
        names.append(name)
        if stage.kind in ("train", "kdrl"):
            (folder / "model").mkdir(exist_ok=True)
            (folder / "model/config.json").touch()
        else:
            record = Record("student", "s", "t", "exact_match", 0.5, 0.4, 0.6, 9, 0)
            write_results(folder / "results.json", [record])

    monkeypatch.setattr("llmkd.run_stage._do", do)
    monkeypatch.setattr(pipeline, "_run_in_child", lambda job, name, *_: run_stage(job, name))
    return names


def names_of(folder):
    return {path.name for path in folder.iterdir()}


def test_what_was_measured_before_is_not_left_as_the_results_of_a_new_recipe(
    make_recipe, trained, monkeypatch
):
    recipe = make_recipe(evaluation=EVALUATE)
    folder = Run(recipe).folder
    pipeline.run(recipe)
    assert (folder / "results.json").exists()

    def fail(*_):
        raise InputError("the disk is gone")

    monkeypatch.setattr(pipeline, "_run_in_child", fail)
    with pytest.raises(InputError, match="is gone"):
        pipeline.run(make_recipe(2e-3, evaluation=EVALUATE), overwrite=True)
    assert "results.json" not in names_of(folder)
    assert ".results.json.old-1" in names_of(folder)


def test_a_recipe_without_its_evaluate_stage_keeps_no_old_results(make_recipe, trained):
    recipe = make_recipe(evaluation=EVALUATE)
    folder = Run(recipe).folder
    pipeline.run(recipe)
    assert pipeline.run(make_recipe()) == []
    assert "results.json" not in names_of(folder)
    assert "evaluation" not in (folder / "recipe.resolved.yaml").read_text()


def test_a_finished_run_is_not_described_anew(make_recipe, trained):
    recipe = make_recipe(evaluation=EVALUATE)
    folder = Run(recipe).folder
    pipeline.run(recipe)
    (folder / "environment.json").write_text("as it was")
    before = {name: (folder / name).stat().st_mtime_ns for name in ("recipe.resolved.yaml",)}
    assert len(pipeline.run(recipe)) == 1
    assert trained == ["student", "evaluation"]
    assert (folder / "environment.json").read_text() == "as it was"
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    (folder / "stages/student/stage.json").unlink()
    pipeline.run(recipe)
    assert (folder / "environment.json").read_text() != "as it was"


@pytest.mark.parametrize("left", ["nothing", "checkpoint"])
def test_a_stage_refused_for_its_input_may_be_mended_unless_something_was_saved(
    make_recipe, trained, monkeypatch, left
):
    done = pipeline.run_stage.__globals__["_do"]

    def refuse(job, stage, folder, name):
        if left == "checkpoint":
            (folder / "checkpoints/checkpoint-5").mkdir(parents=True)
            (folder / "checkpoints/checkpoint-5/trainer_state.json").write_text("{}")
        raise InputError("trainer.learning_rate: too large; write 2e-3")

    monkeypatch.setattr("llmkd.run_stage._do", refuse)
    recipe = make_recipe()
    with pytest.raises(InputError, match="write 2e-3"):
        pipeline.run(recipe)
    monkeypatch.setattr("llmkd.run_stage._do", done)
    if left == "nothing":
        pipeline.run(make_recipe(2e-3))
        assert trained == ["student"]
    else:
        with pytest.raises(InputError, match="learning_rate changed since"):
            pipeline.run(make_recipe(2e-3))


KDRL = {
    "kind": "kdrl",
    "student": {"model_name_or_path": "stage:student"},
    "data": {"kind": "task", "digits": 2, "num_examples": 9, "keep_columns": ["answer"]},
    "reward_funcs": [{"kind": "number"}],
    "objective": {"kind": "grpo"},
}


def test_under_a_launcher_every_stage_that_trains_runs_and_no_other(
    make_recipe, trained, monkeypatch
):
    recipe = make_recipe(again=KDRL, evaluation=EVALUATE)
    pipeline.run(recipe)
    trained.clear()
    (Run(recipe).stage_folder("again") / "stage.json").unlink()
    (Run(recipe).stage_folder("evaluation") / "stage.json").unlink()
    monkeypatch.setenv("LOCAL_RANK", "0")
    pipeline.run(recipe)
    assert trained == ["again"]
    with pytest.raises(InputError, match=r"stages.evaluation: kind evaluate does not run under"):
        pipeline.run(recipe)
