"""Packed, grouped, mixed and streamed data, from recipe to weights."""

import json

import pytest
import torch
from safetensors.torch import load_file

from llmkd.errors import InputError
from llmkd.training.train import build_trainer, run_train


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def counts(folder):
    return json.loads((folder / "data.json").read_text())


def assert_same_bits(one, other):
    one, other = weights(one), weights(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


def first_step(trainer):
    """Loss and gradients of one pass over all batches, as the trainer computes them."""
    model = trainer.model
    model.zero_grad()
    batches = list(trainer.get_train_dataloader())
    batches, num_positions = trainer.get_batch_samples(iter(batches), len(batches), "cpu")
    losses = [trainer.compute_loss(model, batch, num_items_in_batch=num_positions) for batch in batches]  # fmt: skip
    for loss in losses:
        loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    return sum(losses).item(), gradients, len(batches)


def test_packing_changes_neither_loss_nor_gradient_nor_count(train_stage, sums, tmp_path):
    path = sums()
    results = []
    for packing in (False, True):
        data = {"dataset_name": path, "max_length": 64, "packing": packing}
        stage = train_stage({"per_device_train_batch_size": 4}, data=data)
        results.append(first_step(build_trainer(stage, tmp_path / str(packing), seed=0)))
    (loss, gradients, num_batches), (packed_loss, packed_gradients, num_packed) = results
    assert num_packed < num_batches / 2
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(packed_gradients[name], gradient, rtol=1e-4, atol=1e-6)


def test_a_packed_run_trains_resumes_and_counts(train_stage, sums, tmp_path):
    data = {"dataset_name": sums(), "max_length": 48, "packing": True}
    trainer = {"per_device_train_batch_size": 2, "lr_scheduler_type": "constant"}
    run_train(train_stage(trainer, data=data), tmp_path / "whole", name="s", seed=0)
    run_train(train_stage(trainer, data=data), tmp_path / "cut", name="s", seed=0)
    checkpoint = tmp_path / "cut" / "checkpoints" / "checkpoint-4"
    again = train_stage(trainer, data=data, resume=str(checkpoint))
    run_train(again, tmp_path / "cut", name="s", seed=0)
    assert_same_bits(tmp_path / "whole", tmp_path / "cut")
    found = counts(tmp_path / "whole")
    assert found["num_rows"] == 40
    assert found["num_sequences"] < 20
    assert found["num_trained_tokens"] == sum(i % 7 + 2 for i in range(40))
    assert metrics(tmp_path / "whole")[-1]["loss/forward_kl"] > 0


def test_a_student_that_looks_across_documents_is_refused(train_stage, sums, tmp_path):
    config = {"model_type": "mamba", "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    data = {"dataset_name": sums(), "max_length": 64, "packing": True}
    stage = train_stage(student={"kind": "scratch", "config": config}, data=data)
    with pytest.raises(InputError, match=r"MambaForCausalLM \(student\) a packed document sees"):
        run_train(stage, tmp_path / "s", name="s", seed=0)


def test_batches_of_like_length_resume_in_the_middle_of_an_epoch(train_stage, sums, tmp_path):
    data = {"dataset_name": sums(), "max_length": 64}
    trainer = {
        "train_sampling_strategy": "group_by_length",
        "per_device_train_batch_size": 4,
        "lr_scheduler_type": "constant",
        "max_steps": 14,  # ten steps an epoch
        "save_total_limit": 9,
    }
    run_train(train_stage(trainer, data=data), tmp_path / "whole", name="s", seed=0)
    for step in (4, 12):
        folder = tmp_path / f"from-{step}"
        run_train(train_stage(trainer, data=data), folder, name="s", seed=0)
        back = str(folder / "checkpoints" / f"checkpoint-{step}")
        run_train(train_stage(trainer, data=data, resume=back), folder, name="s", seed=0)
        assert_same_bits(tmp_path / "whole", folder)


def test_batches_of_like_length_hold_less_padding_and_every_row_once(train_stage, sums, tmp_path):
    shares = {}
    for strategy in ("random", "group_by_length"):
        data = {"dataset_name": sums(num_rows=400), "max_length": 64}
        trainer = {"train_sampling_strategy": strategy, "per_device_train_batch_size": 4}
        built = build_trainer(train_stage(trainer, data=data), tmp_path / strategy, seed=0)
        masks = [batch["attention_mask"] for batch in built.get_train_dataloader()]
        shares[strategy] = sum(m.sum() for m in masks) / sum(m.numel() for m in masks)
        assert sum(len(m) for m in masks) == 400
    assert shares["group_by_length"] > 0.9
    assert shares["random"] < 0.8


@pytest.mark.parametrize("packing", [False, True])
def test_a_streamed_run_resumes_in_the_same_bits(train_stage, sums, tmp_path, packing):
    data = {"dataset_name": sums(), "max_length": 48, "streaming": True, "packing": packing}
    trainer = {
        "per_device_train_batch_size": 2 if packing else 8,
        "lr_scheduler_type": "constant",
        "max_steps": 10,  # two passes of five steps each
        "save_total_limit": 9,
    }
    run_train(train_stage(trainer, data=data), tmp_path / "whole", name="s", seed=0)
    for step in (2, 8):
        folder = tmp_path / f"from-{step}"
        run_train(train_stage(trainer, data=data), folder, name="s", seed=0)
        back = str(folder / "checkpoints" / f"checkpoint-{step}")
        run_train(train_stage(trainer, data=data, resume=back), folder, name="s", seed=0)
        assert_same_bits(tmp_path / "whole", folder)
    found = counts(tmp_path / "whole")
    assert found["num_rows"] >= 80
    assert found["num_truncated"] == found["num_dropped"] == 0


def test_a_stream_is_found_unreadable_before_training(train_stage, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "x"}\n')
    data = {"dataset_name": str(path), "streaming": True}
    with pytest.raises(InputError, match="the columns are question"):
        build_trainer(train_stage(data=data), tmp_path / "s", seed=0)


def test_a_mixture_trains_on_its_shares(train_stage, sums, tmp_path):
    data = {
        "kind": "mixture",
        "max_length": 64,
        "sources": [
            {"dataset_name": sums("a.jsonl", 30), "weight": 3},
            {"kind": "task", "digits": 2, "num_examples": 40, "weight": 1},
        ],
    }
    run_train(train_stage(data=data), tmp_path / "s", name="s", seed=0)
    found = counts(tmp_path / "s")
    assert found["num_rows"] == 40
    assert [(s["num_available"], s["num_rows"]) for s in found["sources"]] == [(30, 30), (40, 10)]


def test_truncation_is_counted_and_said(train_stage, sums, tmp_path, capsys):
    data = {"dataset_name": sums(), "max_length": 16}
    run_train(train_stage(data=data), tmp_path / "s", name="s", seed=0)
    found = counts(tmp_path / "s")
    # Prompts of 1 + 4, 8, 12, 16, 20 tokens; completions of 1 to 7 and an end-of-text token.
    lengths = [(1 + 4 * (1 + i % 5), i % 7 + 2) for i in range(40)]
    dropped = [p for p, _ in lengths if p >= 16]
    cut = [p + c - 16 for p, c in lengths if p < 16 < p + c]
    assert (found["num_dropped"], found["num_truncated"]) == (len(dropped), len(cut))
    assert found["num_tokens_cut"] == sum(cut)
    said = capsys.readouterr().err
    kept = 40 - len(dropped)
    assert f"data: {len(cut)} of {kept} rows were cut to max_length 16 ({sum(cut)} tokens)" in said
    assert f"{len(dropped)} of 40 had nothing to train on and were dropped" in said
    # Of the rows trained on, by their length before they were cut.
    assert sum(num_rows for _, num_rows in found["lengths"]) == 40 - len(dropped)


def test_the_recipes_chat_template_is_saved_with_the_student(train_stage, teacher_folder, tmp_path):
    (tmp_path / "plain.jinja").write_text(
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}<eos>{% endif %}"
        "{% endfor %}"
    )
    turns = [{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    data = {
        "dataset_name": str(tmp_path / "a.jsonl"),
        "chat_template": str(tmp_path / "plain.jinja"),
    }
    run_train(train_stage(data=data), tmp_path / "s", name="s", seed=0)
    assert counts(tmp_path / "s")["num_trained_tokens"] == 2  # the answer and its end
    saved = (tmp_path / "s" / "model" / "chat_template.jinja").read_text()
    assert saved == (tmp_path / "plain.jinja").read_text()
