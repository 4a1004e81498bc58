"""A classifier from recipe to model folder: tiny BERTs on the intents task and on files."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from llmkd.data.intents import LABELS
from llmkd.data.tasks import build_tokenizer
from llmkd.errors import InputError
from llmkd.models.classifiers import head_config
from llmkd.recipe.data import IntentTask
from llmkd.recipe.schema import TrainStage
from llmkd.training.train import build_trainer, run_train

SHAPE = {
    "model_type": "bert",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "initializer_range": 0.2,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TASK = {"kind": "task", "task": "intents", "num_examples": 64}
TRAINER = {
    "max_steps": 6,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_steps": 2,
}
LOSSES = [
    {"kind": "forward_kl", "temperature": 2.0},
    {"kind": "reverse_kl", "weight": 0.5},
    {"kind": "jsd", "weight": 0.5},
    {"kind": "cross_entropy", "weight": {"kind": "linear", "start": 1.0, "end": 0.1}},
]


@pytest.fixture
def words():
    return build_tokenizer(IntentTask(**TASK))


@pytest.fixture
def save_model(tmp_path, words):
    """Saves a random BERT with other labels, another seed or a head of another size."""

    def save(name, labels=sorted(LABELS), **fields):  # noqa: B008
        torch.manual_seed(7)
        shape = {**SHAPE, "hidden_size": 24, "vocab_size": len(words), **fields}
        config = AutoConfig.for_model(**{**shape, **head_config(list(labels))})
        AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / name)
        words.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


@pytest.fixture
def stage_of(save_model):
    """Makes a stage; keyword arguments replace its parts, `trainer` is merged."""
    teacher = save_model("teacher")

    def make(trainer=None, *, dropout=True, **parts):
        config = SHAPE if dropout else SHAPE | NO_DROPOUT
        whole = {
            "kind": "train",
            "student": {"kind": "scratch", "config": config},
            "teacher": {"model_name_or_path": teacher},
            "data": TASK,
            "losses": LOSSES,
        } | parts
        return TrainStage.model_validate(whole | {"trainer": TRAINER | (trainer or {})})

    return make


@pytest.fixture
def rows(tmp_path):
    def write(*pairs, name="rows.jsonl"):
        lines = [json.dumps({"text": text, "label": label}) for text, label in pairs]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return {"kind": "classification", "dataset_name": str(tmp_path / name)}

    return write


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def first_gradients(stage, folder):
    """Loss and gradients of the first optimizer step, before the update."""
    trainer = build_trainer(stage, folder, seed=0)
    loader = iter(trainer.get_train_dataloader())
    batches, counts = trainer.get_batch_samples(
        loader, trainer.args.gradient_accumulation_steps, "cpu"
    )
    model = trainer.model.train()
    losses = [trainer.compute_loss(model, batch, num_items_in_batch=counts) for batch in batches]
    for loss in losses:
        loss.backward()
    return sum(losses).item(), {name: p.grad for name, p in model.named_parameters()}


def test_8x1_and_2x4_give_the_same_loss_and_gradient(stage_of, tmp_path):
    many = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    loss, whole = first_gradients(stage_of(dropout=False), tmp_path / "8x1")
    split_loss, split = first_gradients(stage_of(many, dropout=False), tmp_path / "2x4")
    assert split_loss == pytest.approx(loss, rel=1e-5)
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, rtol=1e-4, atol=1e-6)
        assert gradient.any(), name


def test_the_loss_is_that_of_plain_transformers(stage_of, tmp_path):
    losses = [{"kind": "cross_entropy"}]
    trainer = build_trainer(
        stage_of(dropout=False, losses=losses, teacher=None), tmp_path / "s", seed=0
    )
    batch = next(iter(trainer.get_train_dataloader()))
    counts = trainer.objective.count_positions(batch["target_ids"])
    ours = trainer.compute_loss(trainer.model, batch, num_items_in_batch=counts)
    labels = batch.pop("target_ids")
    assert ours.item() == pytest.approx(trainer.model(**batch, labels=labels).loss.item(), rel=1e-6)


def test_the_product_is_a_classifier_with_the_teachers_labels(stage_of, tmp_path):
    run_train(stage_of(), tmp_path / "s", name="small", seed=0)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "s" / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "s" / "model")
    assert model(**tokenizer("call anna", return_tensors="pt")).logits.shape == (1, len(LABELS))
    assert [model.config.id2label[i] for i in range(len(LABELS))] == sorted(LABELS)
    assert model.config.label2id["weather"] == len(LABELS) - 1
    assert "A sequence classifier, distilled from" in (tmp_path / "s/model/README.md").read_text()
    log = metrics(tmp_path / "s")
    wanted = {f"loss/{loss['kind']}" for loss in LOSSES} | {"teacher_nll", "kl", "grad_norm"}
    assert wanted <= log[0].keys()
    assert log[-1]["tokens"] == 6 * 8, "one target per row"
    counts = json.loads((tmp_path / "s" / "data.json").read_text())
    assert counts["num_rows"] == counts["num_trained_tokens"] == 64


def test_an_interrupted_run_ends_in_the_same_bits(stage_of, tmp_path):
    stage = stage_of({"lr_scheduler_type": "constant", "save_total_limit": 9})
    run_train(stage, tmp_path / "whole", name="s", seed=0)
    run_train(stage, tmp_path / "cut", name="s", seed=0)
    back = str(tmp_path / "cut" / "checkpoints" / "checkpoint-4")
    run_train(stage.model_copy(update={"resume": back}), tmp_path / "cut", name="s", seed=0)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert metrics(tmp_path / "whole")[-1]["loss"] == metrics(tmp_path / "cut")[-1]["loss"]


def test_the_student_becomes_its_teacher(stage_of, tmp_path):
    trainer = {"max_steps": 150, "save_strategy": "no", "learning_rate": 1e-2}
    losses = [{"kind": "forward_kl"}]
    stage = stage_of(trainer, dropout=False, losses=losses, data=TASK | {"num_examples": 8})
    run_train(stage, tmp_path / "s", name="s", seed=0)
    log = metrics(tmp_path / "s")
    assert log[-1]["kl"] < 0.02 * log[0]["kl"]


@pytest.mark.parametrize("extra", [{"bf16": True}, {"gradient_checkpointing": True}])
def test_half_precision_and_checkpointing_train_alike(stage_of, tmp_path, extra):
    run_train(stage_of(dropout=False), tmp_path / "plain", name="s", seed=0)
    run_train(stage_of(extra, dropout=False), tmp_path / "other", name="s", seed=0)
    plain, other = metrics(tmp_path / "plain"), metrics(tmp_path / "other")
    tolerance = 5e-2 if "bf16" in extra else 1e-4
    for line, again in zip(plain, other, strict=True):
        assert again["loss"] == pytest.approx(line["loss"], rel=tolerance)


def test_a_lora_student_trains_its_head_and_is_saved_merged(stage_of, save_model, tmp_path):
    base = save_model("base")
    student = {"model_name_or_path": base, "lora": {"r": 2, "alpha": 4}}
    stage = stage_of({"save_total_limit": 9, "lr_scheduler_type": "constant"}, student=student)
    run_train(stage, tmp_path / "s", name="s", seed=0)
    before = AutoModelForSequenceClassification.from_pretrained(base).state_dict()
    after = AutoModelForSequenceClassification.from_pretrained(tmp_path / "s/model").state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert {"classifier.weight", "classifier.bias"} <= changed
    assert all(name.endswith("weight") for name in changed - {"classifier.bias"})
    assert not [name for name in changed if "embeddings" in name or "LayerNorm" in name]
    # And so does one that was interrupted.
    whole = weights(tmp_path / "s")
    back = str(tmp_path / "s" / "checkpoints" / "checkpoint-4")
    run_train(stage.model_copy(update={"resume": back}), tmp_path / "s", name="s", seed=0)
    assert all(torch.equal(whole[name], value) for name, value in weights(tmp_path / "s").items())


def test_rows_name_the_labels_where_no_teacher_does(stage_of, rows, words, tmp_path):
    words.save_pretrained(tmp_path / "words")
    student = {
        "kind": "scratch",
        "config": SHAPE,
        "tokenizer_name_or_path": str(tmp_path / "words"),
    }
    data = rows(("call anna", 2), ("pay rent", 10), ("rain today", 0))
    losses = [{"kind": "cross_entropy"}]
    stage = stage_of(student=student, data=data, teacher=None, losses=losses)
    trainer = build_trainer(stage, tmp_path / "s", seed=0)
    assert trainer.model.config.id2label == {0: "0", 1: "2", 2: "10"}
    assert trainer.train_dataset["target"][:] == [1, 2, 0]
    stage = stage_of(
        student=student, data=data | {"labels": ["10", "2", "1", "0"]}, teacher=None, losses=losses
    )
    trainer = build_trainer(stage, tmp_path / "s", seed=0)
    assert trainer.train_dataset["target"][:] == [1, 0, 3]


def test_rows_may_count_the_teachers_labels_where_the_recipe_writes_them(stage_of, rows, tmp_path):
    data = rows(("call anna", 2), ("pay rent", 11), ("rain today", sorted(LABELS)[5]))
    stage = stage_of(data=data | {"labels": sorted(LABELS)})
    trainer = build_trainer(stage, tmp_path / "s", seed=0)
    assert trainer.train_dataset["target"][:] == [2, 11, 5]


def test_labels_and_lengths_that_do_not_fit_are_refused(stage_of, rows, save_model, tmp_path):
    def refused(message, **parts):
        with pytest.raises(InputError, match=message):
            build_trainer(stage_of(**parts), tmp_path / "s", seed=0)

    refused("no output for .'sing'.", data=rows(("call anna", "call"), ("la la", "sing")))
    other = {"model_name_or_path": save_model("other", ["a", "b"])}
    refused("student and teacher have different labels: 'a', 'b'", student=other)
    long = rows(("pay " * 40, "call"), ("call anna", "call"))
    refused("data.max_length: 42 tokens .* 32 positions; write max_length: 32", data=long)
    build_trainer(stage_of(data=long | {"max_length": 32}), tmp_path / "s", seed=0)
    # A task has no max_length to write.
    few = {"kind": "scratch", "config": SHAPE | {"max_position_embeddings": 4}}
    way = r"write max_position_embeddings: \d+ in student.config"
    refused(rf"^student: .* the student has 4 positions; {way}", student=few)


def test_cut_rows_are_counted_and_said(stage_of, rows, tmp_path, capsys):
    data = rows(("pay the rent today", "call"), ("call anna", "call")) | {"max_length": 5}
    run_train(stage_of(data=data), tmp_path / "s", name="s", seed=0)
    said = capsys.readouterr().err
    assert "data: 1 of 2 rows were cut to max_length 5 (1 tokens)" in said


def test_a_teacher_with_other_tokens_is_refused(stage_of, save_model, tokenizer, tmp_path):
    folder = save_model("stranger")
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match="student and teacher have different tokenizers"):
        build_trainer(
            stage_of(
                teacher={"model_name_or_path": folder},
                student={"model_name_or_path": save_model("own")},
            ),
            tmp_path / "s",
            seed=0,
        )
