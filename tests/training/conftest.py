"""A tiny train stage on real files: a saved teacher, the addition task, a scratch student."""

import json

import pytest

from llmkd.recipe.schema import TrainStage

STUDENT = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
TRAINER = {
    "max_steps": 6,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_steps": 2,
}


@pytest.fixture
def teacher_folder(tmp_path, tokenizer, tiny_llama):
    """A saved teacher of another hidden size, with a vocabulary padded to 64."""
    folder = tmp_path / "teacher"
    tiny_llama(tokenizer, hidden_size=32, vocab_size=64).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def train_stage(teacher_folder):
    """Makes a stage; keyword arguments replace its parts, `trainer` is merged."""

    def make(trainer=None, **parts):
        whole = {
            "kind": "train",
            "student": {"kind": "scratch", "config": STUDENT},
            "teacher": {"model_name_or_path": str(teacher_folder)},
            "data": {"kind": "task", "digits": 2, "num_examples": 100},
            "losses": [
                {"kind": "forward_kl", "temperature": 2.0},
                {"kind": "cross_entropy", "weight": {"kind": "linear", "start": 1.0, "end": 0.1}},
            ],
        } | parts
        return TrainStage.model_validate(whole | {"trainer": TRAINER | (trainer or {})})

    return make


@pytest.fixture
def sums(tmp_path):
    """A JSONL file of sums of very different lengths; says its path."""

    def write(name="sums.jsonl", num_rows=40):
        rows = [
            {"prompt": "1+2=" * (1 + i % 5), "completion": "".join(str(d % 10) for d in range(i % 7 + 1))}
            for i in range(num_rows)
        ]  # fmt: skip
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture
def first_step():
    """Loss, gradients and batches of the first optimizer step, as the trainer computes them."""

    def take(trainer):
        loader = iter(trainer.get_train_dataloader())
        num_batches = trainer.args.gradient_accumulation_steps
        batches, counts = trainer.get_batch_samples(loader, num_batches, "cpu")
        losses = [
            trainer.compute_loss(trainer.model, batch, num_items_in_batch=counts)
            for batch in batches
        ]
        for loss in losses:
            loss.backward()
        gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
        return sum(losses).item(), gradients, batches

    return take
