"""How large a model of some configuration is, and what a token costs it, without its weights."""

from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from llmkd.evaluation.cost import count_flops
from llmkd.recipe.distillation_effects import CostTask

PROMPT_LENGTH = CostTask.model_fields["prompt_length"].default
"""Tokens over which the cost of one is counted; the evaluation's task `cost` reads as many."""


@dataclass(frozen=True)
class Size:
    """A model's size.

    Args:
        parameters: All of them; tied embeddings count once.
        flops_per_token: As the evaluation's task `cost` counts them: two for each multiplication and
            addition of matrices, attention and head included, over a prompt of `PROMPT_LENGTH`.
    """

    parameters: int
    flops_per_token: float


def size_of(config: PreTrainedConfig) -> Size:
    """The size of a causal model of this configuration."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        prompt = torch.zeros(1, PROMPT_LENGTH, dtype=torch.long)
        # Given whole, for making one asks what is in the tensors, which hold nothing here.
        mask = torch.zeros(1, 1, PROMPT_LENGTH, PROMPT_LENGTH)
    flops = count_flops(model, prompt, attention_mask=mask)
    return Size(model.num_parameters(), flops / PROMPT_LENGTH)
