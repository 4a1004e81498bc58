import json
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from llmkd.errors import LlmkdError
from llmkd.evaluation import cost as cost_module
from llmkd.evaluation import evaluate as evaluate_module
from llmkd.evaluation import measure as measure_module
from llmkd.evaluation import reasoning as reasoning_module
from llmkd.evaluation import subject as subject_module
from llmkd.evaluation.evaluate import evaluate
from llmkd.evaluation.exact_match import ScoredAnswers
from llmkd.evaluation.perplexity import score_text
from llmkd.recipe.evaluation import Suite
from llmkd.recipe.models import PretrainedModel
from llmkd.recipe.teacher_data import TransformersEngine, VLLMEngine


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("1+2=3", "12;", "#77")))
    sums = {"kind": "task", "num_examples": 6, "split": "test"}
    text = {"dataset_name": str(path), "max_length": 64}
    return Suite.model_validate(
        {
            "name": "both",
            "tasks": [
                {"kind": "exact_match", "name": "sums", "data": sums, "max_completion_length": 3},
                {"kind": "perplexity", "name": "text", "data": text},
            ],
        }
    )


@pytest.fixture
def models(tiny_llama, tokenizer, tmp_path):
    folders = [(name, str(tmp_path / name)) for name in ("first", "second")]
    for seed, (_, folder) in enumerate(folders):
        tiny_llama(tokenizer, seed=seed).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folders


def run(models, suite, progress=lambda done, total: None, **more):
    return evaluate(models, suite, batch_size=4, seed=5, progress=progress, **more)


def test_every_model_gets_every_metric_in_order(models, suite):
    evaluation = run(models, suite)
    records = evaluation.records
    of_text = [
        "loss_per_token",
        "perplexity",
        "bits_per_byte",
        "byte_perplexity",
        "word_perplexity",
    ]
    metrics = [("sums", "exact_match"), *(("text", metric) for metric in of_text)]
    assert [(r.model, r.task, r.metric) for r in records] == [
        (name, *metric) for name in ("first", "second") for metric in metrics
    ]
    assert {(r.suite, r.seed) for r in records} == {("both", 5)}
    assert [r.num_examples for r in records[:3]] == [6, 3, 3]
    assert all(r.ci_low <= r.value <= r.ci_high for r in records)
    assert run(models, suite) == evaluation


def test_values_are_those_of_the_scores(models, suite, tiny_llama, tokenizer, monkeypatch):
    right = np.array([1.0, 0, 0, 1, 1, 1])
    answers = ScoredAnswers(right, [3] * 6, [])
    monkeypatch.setattr(measure_module, "score_answers", lambda *args, **kwargs: answers)
    exact, loss, perplexity, *_ = run(models[:1], suite).records
    assert exact.value == pytest.approx(4 / 6)
    found = score_text(
        tiny_llama(tokenizer),
        tokenizer,
        suite.tasks[1],
        batch_size=4,
        seed=5,
        progress=lambda done, total: None,
    )
    assert loss.value == pytest.approx(found.losses.sum() / found.counts.sum())
    for field in ("value", "ci_low", "ci_high"):
        assert getattr(perplexity, field) == pytest.approx(np.exp(getattr(loss, field)))


def spoil(folder, change):
    """Changes one weight of a saved model."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    change(model.model.layers[1].mlp.down_proj.weight.data)
    model.save_pretrained(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_with_broken_weights_fails_in_every_task_and_the_other_is_measured(
    models, suite, value, tmp_path
):
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"question": "1+1=", "answer": "2"}) + "\n")
    tasks = [
        *suite.model_dump(mode="json")["tasks"],
        {
            "kind": "reasoning",
            "name": "asked",
            "grader": "exact_match",
            "data": {"dataset_name": str(asked)},
            "generation": {"max_completion_length": 3},
        },
        {"kind": "cost", "name": "cost"},
    ]
    suite = Suite.model_validate_json(json.dumps({"name": "all", "tasks": tasks}))
    spoil(models[1][1], lambda weight: weight[3, 5].fill_(value))
    found = run(models, suite)
    names = [task.name for task in suite.tasks]
    assert [(one.model, one.task) for one in found.failures] == [("second", n) for n in names]
    assert {record.model for record in found.records} == {"first"}
    assert {record.task for record in found.records} == set(names)
    for failure in found.failures:
        assert "weight model.layers.1.mlp.down_proj.weight holds NaN or an" in failure.message
        assert failure.is_bad_input


def test_an_overflow_is_told_with_its_cause_and_none_of_it_is_kept(models, suite, tmp_path):
    spoil(models[1][1], lambda weight: weight.mul_(3e4))
    model = AutoModelForCausalLM.from_pretrained(models[1][1])
    model.half().save_pretrained(models[1][1])
    found = run(models, suite, folder=tmp_path / "kept")
    assert [(one.model, one.task) for one in found.failures] == [
        ("second", "sums"),
        ("second", "text"),
    ]
    for failure in found.failures:
        assert "are too large for the type of its weights" in failure.message
    (kept,) = (tmp_path / "kept/model-1/task-1").iterdir()
    assert len(kept.read_text().splitlines()) == 1


def test_where_memory_runs_out_fewer_examples_are_taken_at_once(models, suite, monkeypatch):
    expected = run(models, suite).records
    asked = []
    measure = measure_module.measure

    def narrow(subject, task, setting):
        asked.append(setting.batch_size)
        if setting.batch_size > 32:
            raise RuntimeError("CUDA error: out of memory")
        return measure(subject, task, setting)

    monkeypatch.setattr(evaluate_module, "measure", narrow)
    found = evaluate(models, suite, batch_size="auto", seed=5, progress=lambda done, total: None)
    assert asked == [128, 64, 32] * 4
    for one, other in zip(found.records, expected, strict=True):
        assert one.value == pytest.approx(other.value)
    # Where it is not left to us, it is told, and what else there is goes on.
    found = evaluate(models, suite, batch_size=64, seed=5, progress=lambda done, total: None)
    assert len(found.failures) == 4
    assert all("out of memory" in failure.message for failure in found.failures)


@pytest.fixture
def standing(monkeypatch):
    """The folders of all models in memory, each time that one was loaded or is not needed here."""
    alive, seen = WeakKeyDictionary(), []
    load = subject_module.load_for_inference

    def noted_load(source, kind):
        model, tokenizer = load(source, kind)
        alive[model] = Path(source.model_name_or_path).name
        seen.append(sorted(alive.values()))
        return model, tokenizer

    def noted_task(subject, task, setting):
        seen.append(sorted(alive.values()))
        raise LlmkdError("not measured here")

    monkeypatch.setattr(subject_module, "load_for_inference", noted_load)
    monkeypatch.setattr(cost_module, "measure_cost", noted_task)
    monkeypatch.setattr(reasoning_module, "measure_reasoning", noted_task)
    return seen


def compared(suite, *kinds):
    """The suite's text, and tasks that compare with a teacher."""
    text = suite.tasks[1].model_dump(mode="json")
    near = {**text, "kind": "agreement", "name": "near"}
    cost = {"kind": "cost", "name": "cost"}
    rows = {"dataset_name": text["data"]["dataset_name"]}
    asked = {"kind": "reasoning", "name": "asked", "grader": "number", "data": rows}
    tasks = {"perplexity": text, "agreement": near, "cost": cost, "reasoning": asked}
    return Suite.model_validate({"name": "compared", "tasks": [tasks[kind] for kind in kinds]})


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_a_teacher_that_is_measured_too_is_loaded_once(models, suite, standing, dtype):
    teacher = PretrainedModel(model_name_or_path=f"{models[0][1]}/", dtype=dtype)
    found = run(models, compared(suite, "perplexity", "agreement"), teacher=("first", teacher))
    assert standing == [["first"], ["first", "second"]]
    values = {(r.model, r.metric): r.value for r in found.records if r.task == "near"}
    assert values["first", "forward_kl"] == 0
    assert values["second", "forward_kl"] > 0.001
    # Measured last, it is there already; of another type, it is another copy.
    standing.clear()
    run(models[::-1], compared(suite, "agreement"), teacher=("first", teacher))
    assert standing == [["second"], ["first", "second"]]
    standing.clear()
    half = teacher.model_copy(update={"dtype": "bfloat16"})
    run(models[:1], compared(suite, "agreement"), teacher=("first", half))
    assert standing == [["first"], ["first", "first"]]


def test_no_model_stands_beside_what_does_not_use_it(models, suite, standing):
    teacher = ("first", PretrainedModel(model_name_or_path=models[0][1]))
    run(models, compared(suite, "agreement", "cost"), teacher=teacher)
    assert standing == [["first"], [], ["second"], ["first", "second"], []]
    standing.clear()
    run(models, compared(suite, "perplexity"), teacher=teacher)
    assert standing == [["first"], ["second"]]
    standing.clear()
    asked = compared(suite, "agreement", "reasoning")
    run(models[1:], asked, teacher=teacher, engine=VLLMEngine(kind="vllm"))
    assert standing == [["second"], ["first", "second"], []]
    standing.clear()
    run(models[1:], asked, teacher=teacher, engine=TransformersEngine())
    assert standing == [["second"], ["first", "second"], ["first", "second"]]


def test_progress_grows_to_its_total(models, suite):
    calls = []
    run(models, suite, lambda done, total: calls.append((done, total)))
    done = [done for done, _ in calls]
    assert done == sorted(done)
    assert {total for _, total in calls} == {400}
    assert done[-1] == 400
