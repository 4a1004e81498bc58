"""Every recipe that ships runs through, two steps of each stage, on tiny models and data."""

import json
from pathlib import Path

import pytest

from llmkd import pipeline, run
from llmkd.check import check
from llmkd.check.deep import try_stages
from llmkd.data.word_tokenizer import main as write_tokenizer
from llmkd.evaluation.suites import find_suite
from llmkd.pipeline import generate_teacher_data
from llmkd.recipe import load
from llmkd.recipe.schema import GenerateStage, KDRLStage, ScoreStage, TrainStage
from llmkd.recipe.shipped import shipped_recipes
from llmkd.run_plan import Run
from llmkd.run_stage import run_stage
from llmkd.teacher_data.captured import SampledPositions, TopKPositions
from llmkd.teacher_data.places import open_store

ADDITION = ("quickstart", "kl", "reverse_kl", "seq2seq_kl", "offline_kl", "rationale", "cot")
TEACHER_DATA = ("text", "top_k", "sampled")
LARGE = ("qwen_offline_kl", "qwen_teacher_data")
GENERATION = {"temperature": 1.0, "max_completion_length": 200}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Runs stages here: a process of its own for each, as tests/cli has them, takes seconds to start."""
    monkeypatch.setattr(pipeline, "_run_in_child", lambda job, name, *_: run_stage(job, name))


def shrunk(name, folder, *overrides):
    """The recipe with two steps per training and few examples."""
    recipe = load(name)
    small = [f"output_dir={folder}"]
    for stage_name, stage in recipe.stages.items():
        key = f"stages.{stage_name}"
        if isinstance(stage, TrainStage):
            small += [f"{key}.trainer.max_steps=2", f"{key}.trainer.per_device_train_batch_size=4"]
        if isinstance(stage, KDRLStage):
            few = {"max_steps": 2, "per_device_train_batch_size": 4, "num_generations": 2}
            small += [f"{key}.trainer.{name}={value}" for name, value in few.items()]
            small += [f"{key}.validation.data.num_examples=4"]
        if isinstance(stage, ScoreStage):
            small += [f"{key}.data.num_examples=20"]
        if isinstance(stage, GenerateStage):
            # A teacher of two steps ends its answers by chance only.
            small += [f"{key}.generation.{name}={value}" for name, value in GENERATION.items()]
            small += [f"{key}.data.num_examples=20"]
    return load(name, [*small, *overrides])


def records(recipe):
    run(recipe)
    return json.loads((Path(recipe.output_dir) / "results.json").read_text())


@pytest.mark.parametrize(
    "name", [*ADDITION, pytest.param("quickstart_table", marks=pytest.mark.slow)]
)
def test_the_addition_recipes_run_from_nothing(tmp_path, name, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    recipe = shrunk(name, tmp_path / "run")
    trained = [name for name, stage in recipe.stages.items() if stage.kind == "train"]
    assert [record["model"] for record in records(recipe)] == trained


@pytest.mark.parametrize("name", TEACHER_DATA)
def test_the_recipes_for_teacher_data_run_from_nothing(tmp_path, name, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    recipe = shrunk(name, tmp_path / "run")
    (made,) = generate_teacher_data(recipe)
    store = open_store(tmp_path / "run" / "stages" / made)
    assert len(store) == 20 * (2 if name == "text" else 1)
    kinds = {"text": type(None), "top_k": TopKPositions, "sampled": SampledPositions}
    assert all(isinstance(row.positions, kinds[name]) for row in store)


@pytest.mark.parametrize("name", LARGE)
def test_the_recipes_for_accelerators_pass_the_check(name):
    # Their models are not here, so that is all.
    assert check(name).recipe.stages["teacher_data"].engine.kind == "vllm"


@pytest.fixture
def stories(tmp_path):
    folder = tmp_path / "stories"
    folder.mkdir()
    for split, rows in {"train": ["12+34=46", "5+5=10"] * 4, "validation": ["1+1=2"]}.items():
        lines = [json.dumps({"text": text}) for text in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def tinystories(folder, model, data):
    return shrunk(
        "tinystories",
        folder,
        f"stages.student.teacher.model_name_or_path={model}",
        f"stages.twin.student.tokenizer_name_or_path={model}",
        f"stages.evaluation.models.0={model}",
        f"stages.twin.data.dataset_name={data}",
        f"stages.student.data.dataset_name={data}",
        f"stages.evaluation.suite.tasks.0.data.dataset_name={data}",
    )


def losses(recipe):
    return {r["model"]: r["value"] for r in records(recipe) if r["metric"] == "loss_per_token"}


@pytest.mark.slow
def test_tinystories_runs_on_ones_own_model_and_files(
    tmp_path, tokenizer, tiny_llama, stories, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    model = tmp_path / "model"
    tiny_llama(tokenizer).save_pretrained(model)
    tokenizer.save_pretrained(model)
    found = losses(tinystories(tmp_path / "run", model, stories))
    assert list(found) == [str(model), "twin", "student"]


@pytest.mark.real_data
def test_tinystories_runs_on_a_real_model_and_real_stories(tmp_path, real_data, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    model = real_data / "models" / "stories260K" / "hf"
    loss = losses(tinystories(tmp_path / "run", model, real_data / "tinystories"))
    # The published model's loss, which the evaluation must find: 1.5144 nats per token.
    assert loss[str(model)] == pytest.approx(1.5144, abs=2e-4)
    assert loss["student"] > 5, "two steps teach nothing: ln 512 is 6.2"


def accuracies(recipe):
    return {r["model"]: r["value"] for r in records(recipe) if r["metric"] == "accuracy"}


def test_sinkhorn_runs_from_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    recipe = shrunk("sinkhorn", tmp_path / "run")
    trained = [name for name, stage in recipe.stages.items() if stage.kind == "train"]
    assert list(accuracies(recipe)) == trained


@pytest.mark.slow
@pytest.mark.real_data
def test_sinkhorn_runs_on_real_requests(tmp_path, real_data, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rows = real_data / "clinc150"
    model = real_data / "models" / "stories260K" / "hf"
    data = f"{{kind: classification, dataset_name: {rows / 'train.jsonl'}}}"
    held_out = f"{{kind: classification, dataset_name: {rows / 'validation.jsonl'}}}"
    names = [name for name, stage in load("sinkhorn").stages.items() if stage.kind == "train"]
    recipe = shrunk(
        "sinkhorn",
        tmp_path / "run",
        f"stages.teacher.student.tokenizer_name_or_path={model}",
        f"stages.evaluation.suite.tasks.0.data={held_out}",
        *[f"stages.{name}.data={data}" for name in names],
    )
    assert max(accuracies(recipe).values()) < 0.05, "two steps teach little: 1 in 151 is chance"


def glue_stages_tried(recipe):
    """Every stage on one batch in this process: the sinkhorn recipe runs the same stages for real."""
    return [stage.name for stage in try_stages(Run(recipe), told=lambda name: None)]


def test_glue_takes_its_embedded_task(tmp_path):
    recipe = load("glue", [f"output_dir={tmp_path / 'run'}"])
    assert glue_stages_tried(recipe) == ["teacher", "twin", "student", "evaluation"]


@pytest.mark.real_data
def test_glue_takes_a_real_task(tmp_path, real_data):
    wnli = real_data / "glue_wnli"
    rows = "kind: classification, columns: {text: sentence1, text_pair: sentence2}"
    rows += f", labels: [not_entailment, entailment], dataset_name: {wnli}"
    words = tmp_path / "words"
    write_tokenizer([f"{wnli}/train.jsonl", str(words), "text=sentence1", "text_pair=sentence2"])
    overrides = [
        f"stages.teacher.student.tokenizer_name_or_path={words}",
        f"stages.evaluation.suite.tasks.0.data={{{rows}/validation.jsonl}}",
    ]
    trained = ("teacher", "twin", "student")
    overrides += [f"stages.{name}.data={{{rows}/train.jsonl}}" for name in trained]
    found = check("glue", overrides)
    facts = found.stages["student"].facts
    assert (facts["labels"].value, facts["rows"].value, facts["rows cut"].value) == (2, 635, 0)
    assert found.stages["evaluation"].facts["task rows"].value == 71
    assert glue_stages_tried(found.recipe) == [*trained, "evaluation"]


def test_glue_of_pretrained_models_passes_the_check():
    # Its models and its data are not here, so that is all.
    (task,) = check("glue_bert").recipe.stages["evaluation"].suite.tasks
    (official,) = [one for one in find_suite("glue_classifiers").tasks if one.name == "mrpc"]
    assert (task.metrics, task.positive_label) == (official.metrics, official.positive_label)
    assert task.data == official.data.model_copy(update={"max_length": 128})


def manifest(recipe, stage):
    path = Path(recipe.output_dir) / "stages" / stage / "curation.json"
    return json.loads(path.read_text())


def test_self_consistency_runs_from_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # Two steps teach no teacher to mark its answer: of answers that all differ, the first one wins.
    loose = ["answer_marker=null", "min_votes=1", "ties=first"]
    recipe = shrunk(
        "self_consistency", tmp_path / "run", *(f"stages.voted.steps.0.{field}" for field in loose)
    )
    assert {record["model"] for record in records(recipe)} == {"teacher", "twin", "student"}
    (vote,) = manifest(recipe, "voted")["steps"]
    assert vote["num_in"] > vote["num_out"] >= vote["counted"]["prompts decided"] > 0


def test_annotate_runs_from_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    annotators = ("encoder_decoder", "narrow", "wide", "expert")
    # So many steps make them write labels, and not the same ones.
    taught = [f"stages.{name}.trainer.max_steps=60" for name in annotators]
    taught += [f"stages.{name}.trainer.per_device_train_batch_size=32" for name in annotators]
    greedy = "generation={temperature: 0, max_completion_length: 4}"
    asked = [f"stages.{name}.{greedy}" for name in ("first", "second", "third", "escalated")]
    asked += [f"stages.{name}.data.num_examples=200" for name in ("first", "second", "third")]
    recipe = shrunk("annotate", tmp_path / "run", *taught, *asked)
    assert list(accuracies(recipe)) == ["twin", "student"]
    (vote,) = manifest(recipe, "voted")["steps"]
    lines = lambda name: (tmp_path / "run/stages" / name).read_text().splitlines()  # noqa: E731
    assert 0 < vote["num_out"] < 200
    assert vote["num_out"] + len(lines("voted/undecided.jsonl")) == 200
    num_escalated = len(lines("escalated/data.jsonl"))
    assert num_escalated > 0
    assert manifest(recipe, "annotated")["num_in"] == vote["num_out"] + num_escalated


HEALED = ["pruned", "sft", "self_data", "self_data_2", "merged", "kd"]


def self_data(folder, *overrides):
    written = ("solving", "sums", "differences", "test_sums", "test_differences")
    few = [f"stages.{name}.data.num_examples=24" for name in written]
    return shrunk("self_data", folder, *few, "stages.pruned.num_examples=8", *overrides)


def test_self_data_runs_from_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    text = "{kind: perplexity, name: text, data: {dataset_name: stage:test_sums, max_length: 128}}"
    recipe = self_data(
        tmp_path / "run", f"stages.evaluation.suite={{name: short, tasks: [{text}]}}"
    )
    found = {r["model"]: r["value"] for r in records(recipe) if r["metric"] == "perplexity"}
    assert set(found) == {"teacher", *HEALED}
    (rewriting,) = manifest(recipe, "self_sums")["steps"]
    # A teacher of two steps agrees with nobody, so that these two students read the same rows.
    assert rewriting["num_out"] == sum(rewriting["counted"].values()) == 24
    assert "rewritten" not in rewriting["counted"]
    assert found["sft"] == found["self_data"]
    assert len(set(found.values())) == len(found) - 1
    assert manifest(recipe, "rewriting")["num_out"] == 24
    layers = {
        name: json.loads((Path(Run(recipe).product(name)) / "config.json").read_text())
        for name in ("teacher", *HEALED)
    }
    assert {name: config["num_hidden_layers"] for name, config in layers.items()} == {
        "teacher": 6,
        **dict.fromkeys(HEALED, 5),
    }


@pytest.mark.parametrize("name", ["kdrl", pytest.param("kdrl_table", marks=pytest.mark.slow)])
def test_the_kdrl_recipes_run_from_nothing(tmp_path, name, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    few = ["stages.evaluation.suite.tasks.0.data.num_examples=4"]
    few += ["stages.test.data.num_examples=4"] * (name == "kdrl_table")
    recipe = shrunk(name, tmp_path / "run", *few)
    trained = [name for name, stage in recipe.stages.items() if stage.kind == "kdrl"]
    assert {record["model"] for record in records(recipe)} == {"teacher", "sft", *trained}
    for stage in trained:
        folder = tmp_path / "run/stages" / stage
        (validated, metrics) = (
            [json.loads(line) for line in (folder / file).read_text().splitlines()]
            for file in ("validation.jsonl", "metrics.jsonl")
        )
        assert [line["step"] for line in validated] == [0, 2]
        assert [line["step"] for line in metrics] == [1, 2]
        assert {"time/rollout", "time/teacher", "rewards/number/mean"} <= metrics[0].keys()
        assert ("kd/reverse_kl" in metrics[0]) == (stage != "grpo")
        assert (folder / "rollouts.jsonl").stat().st_size
    page = (tmp_path / "run/report.html").read_text()
    for curve in ("Validation: mean reward of number", "KL of the student from its teacher"):
        assert curve in page


def test_kdrl_of_pretrained_models_passes_the_check():
    # Its models and its data are not here, so that is all.
    stage = check("kdrl_r1_distill_1.5b").recipe.stages["student"]
    assert (stage.objective.estimator, stage.trainer["max_steps"]) == ("k2", 280)


@pytest.mark.slow
def test_self_data_compares_all_ways_of_healing(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tasks = "stages.evaluation.suite.tasks"
    recipe = self_data(
        tmp_path / "run", f"{tasks}.4.data.num_examples=2", f"{tasks}.5.num_rounds=1"
    )
    found = records(recipe)
    for task in recipe.stages["evaluation"].suite.tasks:
        assert {r["model"] for r in found if r["task"] == task.name} >= {*HEALED}


def test_every_shipped_recipe_is_tested_here():
    tested = {
        *ADDITION,
        "quickstart_table",
        *TEACHER_DATA,
        *LARGE,
        "annotate",
        "glue",
        "glue_bert",
        "kdrl",
        "kdrl_r1_distill_1.5b",
        "kdrl_table",
        "self_consistency",
        "self_data",
        "sinkhorn",
        "tinystories",
    }
    assert {path.stem for path in shipped_recipes()} == tested
