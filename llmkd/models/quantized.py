"""Frozen models with weights of few bits, by bitsandbytes."""

import importlib.util
from typing import Literal

import torch
from transformers import BitsAndBytesConfig

from llmkd.errors import InputError


def quantization(bits: Literal["8bit", "4bit"], dtype: torch.dtype | str) -> BitsAndBytesConfig:
    """How transformers is to quantise a model's linear layers, all but its output head.

    Args:
        bits: Of a weight.
        dtype: Of the other weights; 4-bit weights are multiplied in it.

    Raises:
        InputError: bitsandbytes is not installed.

    References:
        Dettmers et al. 2022, "LLM.int8()", https://arxiv.org/abs/2208.07339; Dettmers et al. 2023,
        "QLoRA", section 3 (NF4), https://arxiv.org/abs/2305.14314.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            "teacher.quantization: stands on bitsandbytes, which is not installed; pip install "
            "'llmkd[quantized]', or leave it out"
        )
    if bits == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = dtype if isinstance(dtype, torch.dtype) else torch.bfloat16
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute
    )
