"""In a packed sequence no document sees another, whatever the architecture."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llmkd.data.collate import Collator
from llmkd.data.packing import joined
from llmkd.errors import InputError
from llmkd.models.documents import check_documents_apart
from llmkd.models.head import hidden_states

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
}
FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "cohere", "phi", "gpt2")
DOCUMENTS = [[1, 5, 9, 3], [1, 7, 7], [2, 30, 31, 32, 33]]


def make(name, attention="sdpa"):
    torch.manual_seed(0)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 50} if name == "gpt2" else SMALL
    # Larger weights than usual, so that attention matters.
    config = AutoConfig.for_model(name, **shape, initializer_range=0.3)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def example(ids):
    return {"input_ids": ids, "trained_spans": [1, len(ids)], "tokens_key": b""}


@pytest.mark.parametrize(
    ("name", "attention"),
    [(name, "eager") for name in FAMILIES]
    + [(name, "sdpa") for name in FAMILIES if name != "gemma2"],
)
def test_packed_documents_come_out_as_they_do_alone(name, attention):
    model, collate = make(name, attention), Collator(0)
    # Beside a longer sequence, so that there is padding too.
    batch = collate(
        [joined([example(ids) for ids in DOCUMENTS]), joined([example(list(range(1, 20)))])]
    )
    packed = hidden_states(model, model, batch)[0]
    start = 0
    for ids in DOCUMENTS:
        alone = hidden_states(model, model, collate([example(ids)]))[0]
        torch.testing.assert_close(packed[start : start + len(ids)], alone, atol=1e-4, rtol=1e-4)
        start += len(ids)
    check_documents_apart(model, collate, "student")


def test_no_gradient_crosses_documents_or_comes_from_padding():
    model = make("llama")
    batch = Collator(0)(
        [joined([example(ids) for ids in DOCUMENTS]), joined([example(list(range(1, 20)))])]
    )
    embedded = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
    hidden = model.model(
        inputs_embeds=embedded, position_ids=batch["position_ids"], use_cache=False
    ).last_hidden_state
    hidden[0, 4:7].sum().backward()
    touched = embedded.grad[0].abs().sum(-1) > 0
    assert touched.nonzero().flatten().tolist() == [4, 5, 6]
    assert not embedded.grad[1].any()


@pytest.mark.parametrize("is_flat", [False, True])
def test_a_model_that_looks_across_is_refused(is_flat):
    model = make("llama")
    forward = model.forward

    def without_positions(position_ids=None, **inputs):
        return forward(**inputs)

    model.forward = without_positions
    with pytest.raises(InputError, match=r"packing: in LlamaForCausalLM \(teacher\) a packed doc"):
        check_documents_apart(model, Collator(0, is_flat), "teacher")


def test_a_recurrent_model_is_refused():
    config = AutoConfig.for_model(
        "mamba", vocab_size=50, hidden_size=32, num_hidden_layers=2, state_size=4
    )
    with pytest.raises(InputError, match="sees the one before"):
        check_documents_apart(AutoModelForCausalLM.from_config(config), Collator(0), "student")


def test_weights_as_they_are_initialised_are_enough_to_see_it():
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **SMALL)
    model = AutoModelForCausalLM.from_config(config)
    check_documents_apart(model, Collator(0), "student")
    forward = model.forward
    # Attention looks across, though positions start over.
    model.forward = lambda **inputs: forward(
        **inputs, attention_mask=torch.ones_like(inputs["input_ids"])
    )
    with pytest.raises(InputError, match="sees the one before"):
        check_documents_apart(model, Collator(0), "student")


def test_a_kernel_that_tells_documents_apart_in_a_single_row_only_is_found():
    """As flash attention does: several rows at once are read as if each were one document."""
    model = make("llama")
    forward = model.forward

    def flash(input_ids=None, position_ids=None, **inputs):
        if len(input_ids) > 1:
            position_ids = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        return forward(input_ids=input_ids, position_ids=position_ids, **inputs)

    model.forward = flash
    with pytest.raises(InputError, match="sees the one before"):
        check_documents_apart(model, Collator(0), "teacher")
    check_documents_apart(model, Collator(0, is_flat=True), "teacher")
