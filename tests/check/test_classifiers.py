"""The formulas against the real classifiers of transformers, and what a check says of a stage."""

import json
import re

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
)

from llmkd.check.classifiers import KNOWN, classifier_shape_of
from llmkd.check.deep import try_stages
from llmkd.check.facts import NotKnownError
from llmkd.check.vocabulary import tokenizer_of_task
from llmkd.data.tasks import build_tokenizer
from llmkd.data.words import vocabulary_of, word_tokenizer
from llmkd.errors import InputError
from llmkd.models.classifiers import head_config
from llmkd.recipe import load
from llmkd.recipe.data import IntentTask, NamedIntentTask
from llmkd.recipe.schema import Recipe
from llmkd.run_plan import Run

SMALL = {"vocab_size": 97, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4}
CONFIGS = [
    {"model_type": "bert", **SMALL, "intermediate_size": 50},
    {"model_type": "bert", **SMALL, "max_position_embeddings": 33, "type_vocab_size": 1},
    *[{"model_type": kind, **SMALL} for kind in ("llama", "qwen3", "gpt2")],
    {"model_type": "llama", **SMALL, "tie_word_embeddings": True},
    *[{"model_type": kind} for kind in KNOWN],
]


@pytest.mark.parametrize("num_labels", [2, 7])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: "-".join(map(str, config.values())))
def test_the_formula_counts_what_the_classifier_has(config, num_labels):
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(
            AutoConfig.for_model(**config, num_labels=num_labels)
        )
    shape = classifier_shape_of(config, num_labels)
    assert shape.num_parameters == sum(p.numel() for p in model.parameters())
    assert shape.vocab_size == model.get_input_embeddings().weight.shape[0]


def test_other_architectures_are_not_known():
    with pytest.raises(
        NotKnownError, match="no formula for a classifier of electra, only for bert"
    ):
        classifier_shape_of({"model_type": "electra"}, 2)


@pytest.mark.parametrize(
    ("kind", "name"), [(IntentTask, "intents"), (NamedIntentTask, "named_intents")]
)
def test_the_tasks_tokenizer_is_the_one_that_is_trained_with(kind, name):
    task = kind(kind="task", task=name, num_examples=1)
    real, known = build_tokenizer(task), tokenizer_of_task(task)
    assert known.vocabulary == real.get_vocab()
    assert known.bos_token == real.bos_token
    for special in (True, False):
        ids = real("pay the rent", add_special_tokens=special)["input_ids"]
        assert known.count("pay the rent", special) == len(ids)


SHAPE = {
    "model_type": "bert", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 12,
}  # fmt: skip
RECIPE = """\
name: r
stages:
  teacher:
    kind: train
    student: {kind: scratch, config: SHAPE, tokenizer_name_or_path: WORDS}
    data: &data {kind: classification, dataset_name: ROWS, max_length: 12}
    losses: [{kind: cross_entropy}]
    trainer: &trainer {max_steps: 2, per_device_train_batch_size: 4}
  student:
    kind: train
    student: {kind: scratch, config: SHAPE}
    teacher: {model_name_or_path: stage:teacher}
    data: *data
    losses: [{kind: forward_kl}]
    trainer: *trainer
  evaluation:
    kind: evaluate
    models: [stage:teacher, stage:student]
    suite: {name: s, tasks: [{kind: classification, name: t, data: {kind: classification, dataset_name: ROWS}}]}
"""
ROWS = [("a b c", "x"), ("a b", "y"), ("b c", "x"), ("c " * 20, "z")]


def write_rows(path, rows):
    path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in rows))
    return path


@pytest.fixture
def recipe(tmp_path):
    word_tokenizer(vocabulary_of(["a b c"] * 2)).save_pretrained(tmp_path / "words")
    rows = write_rows(tmp_path / "rows.jsonl", ROWS)
    text = RECIPE.replace("SHAPE", json.dumps(SHAPE)).replace("ROWS", str(rows))
    path = tmp_path / "r.yaml"
    path.write_text(text.replace("WORDS", str(tmp_path / "words")))
    return path


def test_a_check_knows_labels_lengths_and_parameters(recipe, checked):
    found = checked(recipe).stages["student"].facts
    real = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model(**SHAPE, vocab_size=7, **head_config(["x", "y", "z"]))
    )
    assert (found["labels"].value, found["labels"].exactness) == (3, "exact")
    parameters = found["student parameters"]
    assert (parameters.value, parameters.exactness) == (real.num_parameters(), "exact")
    assert found["teacher parameters"].value == parameters.value
    assert (found["rows"].value, found["longest row"].value) == (4, 12)
    # Framed: 5, 4 and 4 tokens, and 12 of 22.
    assert (found["tokens per row"].value, found["rows cut"].value) == (25 / 4, 0.25)
    assert "head" not in found["memory"].parts
    assert checked(recipe).stages["evaluation"].facts["t rows"].value == 4


def ood(**fields):
    return f"stages.evaluation.suite.tasks=[{json.dumps({'kind': 'ood', 'name': 'far', **fields})}]"


def test_a_check_counts_rows_in_and_out_of_distribution(recipe, checked, tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"{word} " * 9}) + "\n" for word in "abc"))
    out = {"kind": "classification", "dataset_name": str(texts)}
    data = {"kind": "task", "task": "intents", "num_examples": 20}
    sums = {"kind": "task", "task": "addition", "num_examples": 30}
    marked = {"kind": "classification", "dataset_name": str(tmp_path / "rows.jsonl")}
    for fields, num_rows in [
        ({"data": data, "out_data": out}, 20 + 3),
        ({"data": out, "out_data": sums}, 3 + 30),
        ({"data": marked, "out_labels": ["z"]}, 4),
    ]:
        rows = checked(recipe, ood(**fields)).stages["evaluation"].facts["far rows"]
        assert (rows.value, rows.exactness) == (num_rows, "exact")
    with pytest.raises(InputError, match=r"far: .*texts.jsonl: the columns are text; rename them"):
        checked(recipe, ood(data=out, out_labels=["z"]))


def test_labels_that_do_not_fit_are_found_before_the_run(recipe, checked, tmp_path):
    other = write_rows(tmp_path / "other.jsonl", [("a b", "x"), ("c", "w")])
    task = f"stages.evaluation.suite.tasks.0.data.dataset_name={other}"
    with pytest.raises(InputError, match=r"data.labels: .*no output for \('w'\); it has 'x', 'y'"):
        checked(recipe, f"stages.student.data.dataset_name={other}")
    with pytest.raises(InputError, match=r"t: the rows have 1 labels .* no output for \('w'\)"):
        checked(recipe, task)
    with pytest.raises(InputError, match=r"are not the model's, which has 'x', 'y', 'z'"):
        checked(recipe, "stages.student.data.labels=[z, y, x]")
    with pytest.raises(InputError, match=r"t: are not the model's, which has 'x', 'y', 'z'"):
        checked(recipe, "stages.evaluation.suite.tasks.0.data.labels=[z, y, x]")
    bad = write_rows(tmp_path / "bad.jsonl", [("a", "x"), ("b", None)])
    with pytest.raises(InputError, match="`label` of row 2 is not text or an integer"):
        checked(recipe, f"stages.teacher.data.dataset_name={bad}")


def test_unusable_rows_of_a_measurement_are_told_in_their_place_beside_other_problems(
    recipe, checked, tmp_path
):
    bad = write_rows(tmp_path / "bad.jsonl", [("a", "x"), ("b", None)])
    overrides = [
        "stages.student.data.labels=[z, y, x]",
        f"stages.evaluation.suite.tasks.0.data.dataset_name={bad}",
    ]
    with pytest.raises(InputError) as caught:
        checked(recipe, *overrides)
    student, evaluation = caught.value.problems
    assert student.startswith(f"override {overrides[0]}: are not the model's")
    assert evaluation.startswith(f"override {overrides[1]}: t: {bad}: `label` of row 2 is not text")


def test_a_saved_teachers_labels_are_read_from_its_folder(recipe, checked, tmp_path):
    config = AutoConfig.for_model(**SHAPE, vocab_size=7, **head_config(["x", "q"]))
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "saved")
    word_tokenizer(vocabulary_of(["a b c"] * 2)).save_pretrained(tmp_path / "saved")
    with pytest.raises(InputError, match=r"no output for .'y', 'z'.; it has 'x', 'q'"):
        checked(recipe, f"stages.student.teacher.model_name_or_path={tmp_path / 'saved'}")


@pytest.mark.parametrize(
    ("auto", "model_type", "labels", "how"),
    [
        (AutoModelForCausalLM, "llama", [], "by formula, with a new head"),
        (AutoModelForMaskedLM, "bert", [], "by formula, with a new head"),
        (AutoModelForSequenceClassification, "bert", ["a", "b"], "by formula, with a new head"),
        (AutoModelForSequenceClassification, "bert", ["x", "y", "z"], "counted in its safetensors"),
    ],
)
def test_a_pretrained_student_is_counted_with_the_head_that_it_gets(
    recipe, checked, tmp_path, auto, model_type, labels, how
):
    shape = {**SHAPE, "model_type": model_type, "vocab_size": 7}
    names = head_config(labels) if labels else {}
    auto.from_config(AutoConfig.for_model(**shape, **names)).save_pretrained(tmp_path / "own")
    word_tokenizer(vocabulary_of(["a b c"] * 2)).save_pretrained(tmp_path / "own")
    given = f"stages.student.student={{model_name_or_path: {tmp_path / 'own'}}}"
    found = (
        checked(
            recipe,
            given,
            "stages.student.teacher=null",
            "stages.student.losses=[{kind: cross_entropy}]",
        )
        .stages["student"]
        .facts["student parameters"]
    )
    real = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model(**shape, **head_config(["x", "y", "z"]))
    )
    assert found.value == real.num_parameters()
    assert how in found.how


@pytest.fixture
def numbers(recipe, tmp_path):
    """The same recipe on rows whose labels are numbers."""
    write_rows(tmp_path / "rows.jsonl", [(text, i + 0.5) for i, (text, _) in enumerate(ROWS)])
    kind = "kind: classification, problem_type: regression"
    text = recipe.read_text().replace("kind: classification, dataset", f"{kind}, dataset")
    text = text.replace("kind: cross_entropy", "kind: label_mse")
    text = text.replace("kind: forward_kl", "kind: logit_mse")
    recipe.write_text(text.replace("}}]}\n", "}, metrics: [pearson]}]}\n"))
    return recipe


def test_a_check_knows_a_model_of_one_number(numbers, checked, tmp_path):
    found = checked(numbers).stages["student"].facts
    real = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model(**SHAPE, vocab_size=7, **head_config(["LABEL_0"]))
    )
    assert (found["labels"].value, found["labels"].exactness) == (1, "exact")
    assert found["student parameters"].value == real.num_parameters()
    assert (found["rows"].value, found["longest row"].value) == (4, 12)
    assert checked(numbers).stages["evaluation"].facts["t rows"].value == 4


def test_a_check_finds_labels_that_are_no_numbers_and_a_model_of_several(
    numbers, checked, tmp_path
):
    bad = write_rows(tmp_path / "bad.jsonl", [("a", 1.5), ("b", "2.5")])
    with pytest.raises(InputError, match="`label` of row 2 is not a number; write it there"):
        checked(numbers, f"stages.teacher.data.dataset_name={bad}")
    config = AutoConfig.for_model(**SHAPE, vocab_size=7, **head_config(["x", "q"]))
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "saved")
    word_tokenizer(vocabulary_of(["a b c"] * 2)).save_pretrained(tmp_path / "saved")
    several = "problem_type: is regression, and the model has an output for each of 'x', 'q'"
    with pytest.raises(InputError, match=several):
        checked(numbers, f"stages.student.teacher.model_name_or_path={tmp_path / 'saved'}")
    with pytest.raises(InputError, match=f"t: {several.partition(': ')[2]}"):
        checked(numbers, f"stages.evaluation.models.1={tmp_path / 'saved'}")


def test_every_stage_on_numbers_can_be_tried_in_miniature(numbers, tmp_path):
    # All labels of few rows may be equal, which has no correlation.
    write_rows(tmp_path / "rows.jsonl", [(text[:5], 2.5) for text, _ in ROWS])
    job = Run(load(numbers, [f"output_dir={tmp_path / 'run'}"]))
    tried = list(try_stages(job, told=lambda name: None))
    assert [one.name for one in tried] == ["teacher", "student", "evaluation"]
    assert tried[1].batch.losses.keys() == {"loss/logit_mse", "teacher_mse"}


def test_what_is_not_here_is_not_known(recipe, checked):
    found = checked(
        recipe,
        "stages.teacher.data.dataset_name=org/rows",
        "stages.student.data.dataset_name=org/rows",
    )
    for name in ("teacher", "student"):
        facts = found.stages[name].facts
        assert facts["labels"].exactness == facts["student parameters"].exactness == "not known"


def test_the_embedded_task_fits_and_has_no_false_problems(recipe, checked):
    task = "{kind: task, task: intents, num_examples: 500}"
    names = ("teacher", "student")
    overrides = [f"stages.{name}.data={task}" for name in names]
    overrides += [
        "stages.evaluation.suite.tasks.0.data={kind: task, task: intents, num_examples: 9}"
    ]
    overrides += [f"stages.{name}.student.config.max_position_embeddings=19" for name in names]
    overrides += ["stages.teacher.student.tokenizer_name_or_path=null"]
    found = checked(recipe, *overrides)
    assert found.warnings == []
    facts = found.stages["student"].facts
    assert (facts["labels"].value, facts["rows"].value, facts["longest row"].value) == (12, 500, 19)
    with pytest.raises(InputError, match="write num_examples: 20000 or less"):
        checked(recipe, *overrides, "stages.teacher.data.num_examples=20001")


def test_a_task_too_long_for_the_positions_is_told_what_can_be_written(recipe, checked):
    task = "{kind: task, task: intents, num_examples: 50}"
    overrides = [f"stages.{name}.data={task}" for name in ("teacher", "student")]
    # Not the task's own tokenizer, of which only an upper bound is known.
    with pytest.raises(InputError) as caught:
        checked(recipe, *overrides, "stages.teacher.student.config.max_position_embeddings=4")
    (own,) = [text for text in caught.value.problems if "the student has 4" in text]
    assert " stages.teacher.student: " in own
    assert re.search(r"write max_position_embeddings: \d+ in student.config$", own)
    (teachers,) = [text for text in caught.value.problems if "the teacher has 4" in text]
    assert " stages.student.teacher: " in teachers
    assert teachers.endswith("write a model with more")


def test_every_stage_is_tried_with_all_labels_on_a_few_rows(recipe, tmp_path):
    # The last label is beyond the rows that are tried.
    rows = [("a b", "x"), ("b c", "y")] * 40 + [("c", "z")]
    write_rows(tmp_path / "rows.jsonl", rows)
    last = write_rows(tmp_path / "last.jsonl", rows[-1:])
    measured_on = f"stages.evaluation.suite.tasks.0.data.dataset_name={last}"
    whole = load(recipe, [f"output_dir={tmp_path / 'run'}", measured_on])
    assert isinstance(whole, Recipe)
    tried = {stage.name: stage for stage in try_stages(Run(whole), told=lambda _: None)}
    assert tried["student"].stand_ins == ["teacher"]
    assert tried["student"].batch.losses["kl"] >= 0
    assert tried["student"].batch.num_tokens == 4
