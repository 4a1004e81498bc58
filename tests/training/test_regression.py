"""A model that gives a number, from recipe to model folder: tiny BERTs on sentence pairs."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from llmkd.data.words import vocabulary_of, word_tokenizer
from llmkd.errors import InputError
from llmkd.recipe.schema import TrainStage
from llmkd.training.train import build_trainer, run_train

WORDS = ["red", "blue", "old", "new"]
# What is red counts 2 in the first text and 3 in the second: from 0 to 5, as STS-B's scores.
ROWS = [
    (f"{a} {b}", f"{c} {d}", 2.0 * (a == "red") + 3 * (c == "red"))
    for a in WORDS[:2]
    for b in WORDS[2:]
    for c in WORDS[:2]
    for d in WORDS[2:]
]
SHAPE = {
    "model_type": "bert",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "initializer_range": 0.2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
TRAINER = {
    "max_steps": 4,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_steps": 2,
    "save_total_limit": 9,
}


@pytest.fixture
def stage_of(tmp_path):
    """Makes a stage; keyword arguments replace its parts, `trainer` and `data` are merged."""
    word_tokenizer(vocabulary_of([" ".join(WORDS)] * 2)).save_pretrained(tmp_path / "words")
    lines = [json.dumps({"sentence1": a, "sentence2": b, "label": y}) for a, b, y in ROWS]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    source = {
        "kind": "classification",
        "problem_type": "regression",
        "dataset_name": str(tmp_path / "rows.jsonl"),
        "columns": {"text": "sentence1", "text_pair": "sentence2"},
    }
    words = str(tmp_path / "words")

    def make(trainer=None, data=None, **parts):
        whole = {
            "kind": "train",
            "student": {"kind": "scratch", "config": SHAPE, "tokenizer_name_or_path": words},
            "losses": [{"kind": "label_mse"}],
            **parts,
            "data": source | (data or {}),
            "trainer": TRAINER | (trainer or {}),
        }
        return TrainStage.model_validate(whole)

    return make


@pytest.fixture
def teacher(stage_of, tmp_path):
    """A regression model, hardly trained."""
    run_train(stage_of(), tmp_path / "teacher", name="teacher", seed=3)
    return {"model_name_or_path": str(tmp_path / "teacher" / "model")}


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def test_a_few_steps_teach_the_labels_and_the_product_is_transformers_regression(
    stage_of, tmp_path
):
    stage = stage_of({"max_steps": 120, "save_strategy": "no"})
    run_train(stage, tmp_path / "s", name="s", seed=0)
    folder = tmp_path / "s" / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert (model.config.problem_type, model.config.num_labels) == ("regression", 1)
    firsts, seconds, labels = zip(*ROWS, strict=True)
    batch = AutoTokenizer.from_pretrained(folder)(
        list(firsts), list(seconds), return_tensors="pt", padding=True
    )
    with torch.no_grad():
        found = model(**batch, labels=torch.tensor(labels))
    # The labels' variance, which a constant would be left with, is (4 + 9) / 4.
    assert found.loss < 0.3
    log = metrics(tmp_path / "s")
    assert log[0]["loss/label_mse"] > 3 > 0.5 > log[-1]["loss/label_mse"]
    assert log[-1]["tokens"] == 120 * 8, "one target per row"
    assert "A sequence regression model" in (folder / "README.md").read_text()


def test_the_loss_is_that_of_plain_transformers(stage_of, tmp_path):
    trainer = build_trainer(stage_of(), tmp_path / "s", seed=0)
    batch = next(iter(trainer.get_train_dataloader()))
    counts = trainer.objective.count_positions(batch["target_ids"])
    ours = trainer.compute_loss(trainer.model, batch, num_items_in_batch=counts)
    labels = batch.pop("target_ids")
    assert ours.item() == pytest.approx(trainer.model(**batch, labels=labels).loss.item(), rel=1e-6)


def test_a_teacher_is_followed_by_its_number_and_measured_on_the_labels(
    stage_of, teacher, tmp_path
):
    losses = [{"kind": "logit_mse"}, {"kind": "label_mse", "weight": 0.5}]
    trainer = build_trainer(stage_of(teacher=teacher, losses=losses), tmp_path / "s", seed=0)
    batch = next(iter(trainer.get_train_dataloader()))
    counts = trainer.objective.count_positions(batch["target_ids"])
    ours = trainer.compute_loss(trainer.model, batch, num_items_in_batch=counts)
    labels = batch.pop("target_ids")
    other = AutoModelForSequenceClassification.from_pretrained(teacher["model_name_or_path"])
    with torch.no_grad():
        taught, own = (model(**batch).logits[:, 0] for model in (other.eval(), trainer.model))
    mse = torch.nn.functional.mse_loss
    expected = mse(own, taught) + 0.5 * mse(own, labels)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    logged = trainer.step_metrics._step
    assert logged["teacher_mse"].item() == pytest.approx(mse(taught, labels).item(), rel=1e-5)
    assert not logged.keys() & {"kl", "teacher_nll"}, "of one output they are always 0"


def test_an_interrupted_run_ends_in_the_same_bits(stage_of, tmp_path):
    run_train(stage_of(), tmp_path / "whole", name="s", seed=0)
    run_train(stage_of(), tmp_path / "cut", name="s", seed=0)
    back = str(tmp_path / "cut" / "checkpoints" / "checkpoint-2")
    run_train(stage_of(resume=back), tmp_path / "cut", name="s", seed=0)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert metrics(tmp_path / "whole")[-1]["loss"] == metrics(tmp_path / "cut")[-1]["loss"]


def test_an_encoder_and_a_classifier_get_a_head_for_a_number_and_a_regression_keeps_its_own(
    stage_of, teacher, tmp_path, capsys
):
    trained = AutoModelForSequenceClassification.from_pretrained(teacher["model_name_or_path"])
    trained.config.id2label, trained.config.label2id = {0: "score"}, {"score": 0}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "words")
    folders = {name: str(tmp_path / name) for name in ("encoder", "classifier", "regression")}
    AutoModel.from_config(trained.config).save_pretrained(folders["encoder"])
    trained.save_pretrained(folders["regression"])
    trained.config.problem_type, trained.config.num_labels = None, 3
    AutoModelForSequenceClassification.from_config(trained.config).save_pretrained(
        folders["classifier"]
    )
    for name, folder in folders.items():
        tokenizer.save_pretrained(folder)
        capsys.readouterr()
        stage = stage_of(student={"model_name_or_path": folder})
        model = build_trainer(stage, tmp_path / f"s-{name}", seed=0).model
        assert (model.config.problem_type, model.classifier.out_features) == ("regression", 1)
        is_kept = torch.equal(model.classifier.weight.cpu(), trained.classifier.weight)
        assert is_kept == (name == "regression") == ("random" not in capsys.readouterr().err)


def test_a_classifier_is_no_teacher_of_numbers(stage_of, teacher, tmp_path):
    losses = [{"kind": "logit_mse"}]
    model = AutoModelForSequenceClassification.from_pretrained(
        teacher["model_name_or_path"], num_labels=2, ignore_mismatched_sizes=True
    )
    model.save_pretrained(teacher["model_name_or_path"])
    with pytest.raises(
        InputError, match=r"problem_type: is regression, and .* 'LABEL_0', 'LABEL_1"
    ):
        build_trainer(stage_of(teacher=teacher, losses=losses), tmp_path / "s", seed=0)


@pytest.mark.parametrize("label", ["3.5", "high", None, True, float("nan"), float("inf"), 1e30])
def test_labels_that_are_no_numbers_are_refused(stage_of, tmp_path, label):
    rows = [{"text": "red", "label": 1.5}, {"text": "old", "label": label}]
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = stage_of(data={"dataset_name": str(path), "columns": {}})
    with pytest.raises(InputError, match=r"`label` is empty or not a number in 1 of 2 rows, .* 2"):
        build_trainer(stage, tmp_path / "s", seed=0)


def test_a_label_of_minus_100_is_a_label(stage_of, tmp_path):
    # -100 marks a token without a target elsewhere.
    path = tmp_path / "cold.jsonl"
    path.write_text('{"text": "red", "label": -100}\n{"text": "old", "label": -100.0}\n')
    stage = stage_of(data={"dataset_name": str(path), "columns": {}})
    trainer = build_trainer(stage, tmp_path / "s", seed=0)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["target_ids"].tolist() == [-100.0, -100.0]
    assert trainer.objective.count_positions(batch["target_ids"]).tolist() == [2, 2]
