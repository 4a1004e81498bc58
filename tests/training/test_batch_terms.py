"""Sinkhorn terms in a training: logged, resumed, and seen to do what a pointwise term does not."""

import json

import pytest
import torch
from safetensors.torch import load_file

from llmkd.training.train import build_trainer, run_train

# Fewer rows than a micro-batch has positions, and columns than the vocabulary: the token form.
SINKHORN = {"kind": "sinkhorn", "max_rows": 6, "top_k": 2}
LOSSES = [{"kind": "forward_kl"}, SINKHORN]


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


@pytest.mark.parametrize("kind", ["sinkhorn", "sinkhorn_paper"])
def test_value_and_marginal_error_are_logged_and_the_loss_is_the_sum(train_stage, tmp_path, kind):
    losses = [{"kind": "forward_kl"}, {"kind": kind, "weight": 3.0, "name": "transport"}]
    run_train(train_stage(losses=losses), tmp_path / "s", name="s", seed=0)
    lines = metrics(tmp_path / "s")
    assert len(lines) == 6
    for line in lines:
        assert line["loss/transport"] > 0
        assert 0 <= line["marginal_error/transport"] < 2
        expected = line["loss/forward_kl"] + 3 * line["loss/transport"]
        assert line["loss"] == pytest.approx(expected, rel=1e-4)


def test_an_interrupted_run_draws_the_same_rows_and_ends_in_the_same_bits(train_stage, tmp_path):
    stage = train_stage({"lr_scheduler_type": "constant", "save_total_limit": 9}, losses=LOSSES)
    run_train(stage, tmp_path / "whole", name="s", seed=0)
    run_train(stage, tmp_path / "cut", name="s", seed=0)
    back = str(tmp_path / "cut" / "checkpoints" / "checkpoint-4")
    run_train(stage.model_copy(update={"resume": back}), tmp_path / "cut", name="s", seed=0)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert metrics(tmp_path / "whole")[-1]["loss"] == metrics(tmp_path / "cut")[-1]["loss"]


def test_a_student_equal_to_its_teacher_has_no_transport_to_pay(
    train_stage, teacher_folder, tmp_path
):
    stage = train_stage(
        {"max_steps": 1},
        student={"model_name_or_path": str(teacher_folder)},
        losses=LOSSES,
        term_gradient_steps=1,
    )
    run_train(stage, tmp_path / "s", name="s", seed=0)
    (line,) = metrics(tmp_path / "s")
    assert line["loss/sinkhorn"] == pytest.approx(0, abs=1e-5)
    assert line["grad_norm/sinkhorn"] == pytest.approx(0, abs=1e-5)


def test_its_gradient_reaches_body_and_head(train_stage, tmp_path):
    stage = train_stage({"max_steps": 1}, losses=LOSSES)
    trainer = build_trainer(stage, tmp_path / "s", seed=0)
    batch = next(iter(trainer.get_train_dataloader()))
    counts = trainer.objective.only(1).count_positions(batch["target_ids"])
    loss = trainer._share(trainer.objective.only(1), trainer.model, batch, counts).loss
    loss.backward()
    gradients = {name: p.grad for name, p in trainer.model.named_parameters()}
    assert all(gradient is not None and gradient.any() for gradient in gradients.values())


def test_bfloat16_and_checkpointing_train_it_alike(train_stage, tmp_path):
    logs = {}
    for name, trainer in {
        "plain": {},
        "checkpointed": {"gradient_checkpointing": True},
        "bf16": {"bf16": True},
    }.items():
        run_train(train_stage(trainer, losses=LOSSES), tmp_path / name, name=name, seed=0)
        logs[name] = [line["loss"] for line in metrics(tmp_path / name)]
    assert logs["checkpointed"] == pytest.approx(logs["plain"], rel=1e-6)
    # As for pointwise terms; a distance of nearly equal rows is a difference of rounded numbers.
    assert logs["bf16"] == pytest.approx(logs["plain"], rel=4e-2)
    assert logs["bf16"] != logs["plain"]


def test_adapters_learn_from_it_while_the_head_stays(train_stage, tokenizer, tiny_llama, tmp_path):
    folder = tmp_path / "student"
    tiny_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    student = {"model_name_or_path": str(folder), "lora": {"r": 2}}
    trainer = {"max_steps": 30, "save_strategy": "no", "learning_rate": 2e-2}
    run_train(
        train_stage(trainer, losses=LOSSES, student=student), tmp_path / "s", name="s", seed=0
    )
    lines = metrics(tmp_path / "s")
    assert lines[-1]["loss/sinkhorn"] < lines[0]["loss/sinkhorn"]
    before, after = load_file(folder / "model.safetensors"), weights(tmp_path / "s")
    changed = {
        name for name in after if not torch.equal(after[name], before[name][: len(after[name])])
    }
    assert changed
    assert not any("lm_head" in name or "embed" in name for name in changed)
