"""Tiny models of every family that can be pruned, with nothing at a value that hides a mistake."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

SHAPE = {
    "vocab_size": 40, "hidden_size": 48, "intermediate_size": 20, "num_hidden_layers": 5,
    "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 64,
    "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
SLIDING = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 2}
FAMILIES = {
    # A head is 12 wide where that is not said by the hidden size and the heads, which say 6.
    "llama": {"head_dim": 12, "attention_bias": True, "mlp_bias": True},
    "llama, tied": {"tie_word_embeddings": True},
    "mistral": {"head_dim": 12, "sliding_window": 4},
    "qwen2": SLIDING,
    "qwen3": {"head_dim": 12, "attention_bias": True, **SLIDING},
}


@pytest.fixture
def build():
    """Makes a random model of a family; what usually begins as 0 or 1 is random too."""

    def make(family, seed=0, **fields):
        model_type = family.split(",")[0]
        config = AutoConfig.for_model(model_type, **{**SHAPE, **FAMILIES[family], **fields})
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.normal_(0.5, 0.5)
        return model

    return make


@pytest.fixture(params=FAMILIES)
def model(request, build):
    """A model of each family in turn."""
    return build(request.param)


@pytest.fixture
def batch():
    """Three texts of 9, 4 and 7 tokens, padded on the right."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 40, (3, 9), generator=generator)
    mask = torch.ones_like(ids)
    for row, length in enumerate([9, 4, 7]):
        ids[row, length:], mask[row, length:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}
