"""What a model costs, against numbers that can be counted by hand."""

import pytest

from llmkd.errors import LlmkdError
from llmkd.evaluation.cost import cost_of, measure_cost
from llmkd.evaluation.measured import Setting
from llmkd.evaluation.subject import Subject
from llmkd.recipe.distillation_effects import CostTask
from llmkd.recipe.models import PretrainedModel

TASK = CostTask(
    kind="cost", name="cost", prompt_length=12, completion_length=4, batch_size=2, num_rounds=3
)


def test_parameters_and_operations_are_those_of_the_model(tiny_llama, tokenizer):
    model = tiny_llama(tokenizer).eval()
    found = cost_of(model, TASK)
    assert found["parameters"] == model.num_parameters()
    assert found["weights_mib"] == pytest.approx(4 * model.num_parameters() / 2**20)
    config = model.config
    layers = [one for name, one in model.named_parameters() if ".layers." in name and one.ndim == 2]
    # Two operations per weight and token, and for each of the 12 keys 2 h for its score and 2 h
    # for its value, in every layer.
    weights = sum(one.numel() for one in layers) + config.vocab_size * config.hidden_size
    heads = config.num_attention_heads * model.model.layers[0].self_attn.head_dim
    attention = config.num_hidden_layers * 4 * 12 * heads
    assert found["flops_per_token"] == pytest.approx(2 * weights + attention, rel=1e-3)
    assert len(found["prefill_seconds"]) == len(found["decode_seconds"]) == 3
    assert min(found["prefill_seconds"] + found["decode_seconds"]) > 0


def test_a_process_of_its_own_measures_and_tells_why_it_cannot(tiny_llama, tokenizer, tmp_path):
    tiny_llama(tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")

    def measured(folder):
        subject = Subject("m", PretrainedModel(model_name_or_path=str(folder), dtype="auto"))
        found = measure_cost(subject, TASK, Setting(subject, 1, 0, lambda *_: None))
        return {one.metric: one for one in found.estimates}

    # What this process once held is not the model's.
    held = bytearray(2 * 2**30)
    held[::4096] = b"x" * len(held[::4096])
    found = measured(tmp_path / "model")
    assert found["parameters"].found.value == tiny_llama(tokenizer).num_parameters()
    # A process that has loaded PyTorch, and a tiny model.
    assert 100 < found["peak_memory_mib"].found.value < 1800
    assert found["decode_tokens_per_s"].num_examples == 3
    with pytest.raises(LlmkdError, match="nowhere"):
        measured(tmp_path / "nowhere")
