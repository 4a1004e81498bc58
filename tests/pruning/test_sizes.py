"""A size without weights is that of the model."""

import pytest
import torch

from llmkd.evaluation.cost import count_flops
from llmkd.pruning.sizes import PROMPT_LENGTH, size_of


def test_a_size_is_that_of_the_model_with_its_weights(model):
    before = model.config.to_dict()
    found = size_of(model.config)
    assert model.config.to_dict() == before
    assert found.parameters == model.num_parameters()
    prompt = torch.zeros(1, PROMPT_LENGTH, dtype=torch.long)
    assert found.flops_per_token == count_flops(model, prompt) / PROMPT_LENGTH


def test_flops_by_hand(build):
    # 2 for each weight of a matrix (5 layers of q and o 48 x 48, k and v 48 x 24, MLP 3 x 48 x 20;
    # head 48 x 40), and for q k and the sum of values 2 x 128 positions x 48 each.
    layer = 2 * 48 * 48 + 2 * 48 * 24 + 3 * 48 * 20
    expected = 2 * (5 * (layer + 2 * 128 * 48) + 48 * 40)
    assert size_of(build("llama, tied").config).flops_per_token == pytest.approx(expected)


def test_a_bfloat16_configuration_has_a_size(build):
    config = build("qwen2").config
    expected = size_of(config)
    config.dtype = torch.bfloat16
    assert size_of(config) == expected
