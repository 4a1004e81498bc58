"""Distilling step-by-step, from recipe to weights."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSeq2SeqLM

from llmkd.training.train import build_trainer, run_train

T5 = {
    "model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2,
    "dropout_rate": 0.0,
}  # fmt: skip
TASK = {"kind": "task", "digits": 1, "num_examples": 30, "steps": "rationale"}
BOTH = TASK | {"rationale": {"kind": "step_by_step", "prefix": ";"}}


def term(part, weight=1.0):
    return {"kind": "cross_entropy", "name": part, "part": part, "weight": weight}


LOSSES = [term("completion"), term("rationale", 0.5)]


@pytest.fixture
def stage(train_stage):
    def make(trainer=None, config=T5, **parts):
        student = {"kind": "scratch", "config": config}
        settings = {"teacher": None, "student": student, "data": BOTH, "losses": LOSSES, **parts}
        return train_stage(trainer, **settings)

    return make


def assert_close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_the_loss_is_that_of_two_passes_each_with_its_own_mean(stage, tmp_path, first_step):
    trainer = build_trainer(stage(), tmp_path / "s", seed=0)
    loss, gradients, (batch,) = first_step(trainer)
    model = trainer.model
    model.zero_grad()
    expected = []
    for part in (0, 1):
        rows = (batch["part_ids"][:, 0] == part).nonzero().flatten()
        assert len(rows) == 8, "as many of each as a batch has rows"
        inputs = {name: batch[name][rows] for name in ("input_ids", "attention_mask", "decoder_input_ids")}  # fmt: skip
        logits = model(**inputs).logits
        expected.append(cross_entropy(logits.flatten(0, 1), batch["target_ids"][rows].flatten()))
    whole = expected[0] + 0.5 * expected[1]
    whole.backward()
    assert loss == pytest.approx(whole.item(), rel=1e-5)
    assert_close(gradients, {name: p.grad for name, p in model.named_parameters()})


def test_micro_batches_change_neither_loss_nor_gradient(stage, tmp_path, first_step):
    results = []
    for size, count in ((8, 1), (1, 8)):
        trainer = {"per_device_train_batch_size": size, "gradient_accumulation_steps": count}
        results.append(first_step(build_trainer(stage(trainer), tmp_path / "s", seed=0)))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-5)
    assert_close(results[1][1], results[0][1])


def test_without_weight_on_rationales_it_is_the_label_only_twin(stage, tmp_path, first_step):
    weightless = stage(losses=[term("completion"), term("rationale", 0.0)])
    twin = stage(data=TASK, losses=[{"kind": "cross_entropy"}])
    ours, theirs = (
        first_step(build_trainer(each, tmp_path / "s", seed=0)) for each in (weightless, twin)
    )
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert_close(ours[1], theirs[1])


def test_it_trains_and_resumes_in_the_same_bits(stage, tmp_path):
    trainer = {"lr_scheduler_type": "constant"}
    run_train(stage(trainer), tmp_path / "whole", name="s", seed=0)
    run_train(stage(trainer | {"max_steps": 2}), tmp_path / "cut", name="s", seed=0)
    run_train(stage(trainer), tmp_path / "cut", name="s", seed=0)
    ours, reference = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("cut", "whole")
    )
    assert all(torch.equal(ours[name], reference[name]) for name in reference)
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["loss"] == pytest.approx(
        last["loss/completion"] + 0.5 * last["loss/rationale"], rel=1e-6
    )
    AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "whole" / "model")


def test_a_teacher_reads_both_sequences(train_stage, tmp_path, first_step):
    losses = [*LOSSES, {"kind": "forward_kl", "part": "rationale"}]
    trainer = build_trainer(train_stage(data=BOTH, losses=losses), tmp_path / "s", seed=0)
    _, gradients, _ = first_step(trainer)
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    metrics = trainer.step_metrics
    metrics.collect(trainer.accelerator)
    kl = metrics.sums
    # Of rationales alone, the divergence is another than over both parts.
    assert kl["loss/forward_kl"] > 0
    assert kl["loss/forward_kl"] != pytest.approx(kl["kl"], rel=1e-3)


def test_both_sequences_stay_together_however_rows_are_drawn(stage, tmp_path, first_step):
    trainer = {"train_sampling_strategy": "group_by_length"}
    _, _, (batch,) = first_step(build_trainer(stage(trainer), tmp_path / "s", seed=0))
    assert batch["part_ids"][:, 0].tolist() == [0, 1] * 8
    # Each sequence of rationales asks what the one before it does, behind another prefix.
    asked, explained = batch["input_ids"][::2], batch["input_ids"][1::2]
    for ours, theirs in zip(asked.tolist(), explained.tolist(), strict=True):
        assert [*ours[:1], *theirs[2:6]] == ours[:5]
