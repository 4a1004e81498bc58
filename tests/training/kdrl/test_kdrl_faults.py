"""A KDRL step whose loss is not finite is not taken."""

import dataclasses
import math

import pytest
import torch

from llmkd.errors import LlmkdError

ADAMW = {"optim": "adamw_torch", "learning_rate": 1e-2, "max_steps": 3}


def test_a_loss_that_is_not_finite_stops_before_the_weights_and_names_the_prompts(
    trained, distillation, tokenizer, tiny_llama
):
    student = tiny_llama(tokenizer)
    kd = dataclasses.replace(distillation(), coefficient=lambda step: [0.5, math.nan][step])
    said = (
        r"^step 2: the loss is not finite: objective is nan \(rank 0, micro-batch 1 of 1, whose "
        r"rows begin '\d\d\+\d\d=', .*; nothing of this step reached the weights; .* for longer$"
    )
    with pytest.raises(LlmkdError, match=said):
        trained(kd, student=student, **ADAMW)
    assert all(p.isfinite().all() for p in student.parameters())
    assert any(
        not torch.equal(mine, before)
        for mine, before in zip(
            student.parameters(), tiny_llama(tokenizer).parameters(), strict=True
        )
    )
