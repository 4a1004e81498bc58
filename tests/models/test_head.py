"""The head's input gives the model's own logits, whatever the architecture."""

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from llmkd.errors import InputError
from llmkd.losses.closed_form import CROSS_ENTROPY
from llmkd.losses.divergences import cross_entropy
from llmkd.losses.linear_head import divergence_from_hidden
from llmkd.losses.terms import HeadTerm
from llmkd.models.head import check_head, hidden_states, inside_head, linear_head

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
CONFIGS = {
    "llama": {},
    "llama tied": {"model_type": "llama", "tie_word_embeddings": True},
    "qwen2": {},
    "qwen3": {},
    "mistral": {},
    "gemma2": {"final_logit_softcapping": 3.0},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 4.0},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    "phi": {},
}


def make(name):
    torch.manual_seed(0)
    fields = {"model_type": name, **CONFIGS[name]}
    if fields["model_type"] == "gpt2":
        config = AutoConfig.for_model(**fields, vocab_size=50)
    else:
        config = AutoConfig.for_model(**{**SMALL, **fields})
    model = AutoModelForCausalLM.from_config(config)
    # Larger weights than at initialisation, so that scales and caps show.
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    return model.eval()


def batch_of(model):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 50, (3, 7), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("name", CONFIGS)
def test_cross_entropy_and_gradients_are_those_of_the_models_own_logits(name):
    ours, plain = make(name), make(name)
    batch = batch_of(ours)
    target_ids = batch["input_ids"].roll(-1, 1)
    kept = batch["attention_mask"].bool()

    hidden = hidden_states(ours, ours, batch)[kept]
    weights = torch.full((1, int(kept.sum())), 1 / int(kept.sum()))
    output = divergence_from_hidden(
        linear_head(ours, hidden), None, target_ids[kept], [HeadTerm("ce", CROSS_ENTROPY)], weights
    )
    output.loss.backward()
    expected = cross_entropy(plain(**batch).logits[kept], target_ids[kept]).mean()
    expected.backward()

    torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=1e-6)
    for (parameter, a), (_, b) in zip(
        ours.named_parameters(), plain.named_parameters(), strict=True
    ):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=parameter)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture_listed_here_passes_the_check(name):
    check_head(make(name), "student")


def test_a_model_that_changes_its_logits_in_an_unknown_way_is_refused():
    model = make("cohere")
    forward = model.forward

    def altered(**kwargs):
        output = forward(**kwargs)
        output.logits = output.logits + 0.5 * output.logits.sin()
        return output

    model.forward = altered
    with pytest.raises(InputError, match="logits of CohereForCausalLM are not those"):
        check_head(model, "teacher")


def test_cropping_leaves_padded_rows_without_probability_or_gradient():
    model = make("llama")
    batch = batch_of(model)
    hidden = hidden_states(model, model, batch).flatten(0, 1)
    targets = (batch["input_ids"] % 40).flatten()
    weights = torch.ones(1, len(targets))
    output = divergence_from_hidden(
        linear_head(model, hidden, 40), None, targets, [HeadTerm("ce", CROSS_ENTROPY)], weights
    )
    output.loss.backward()
    head = model.get_output_embeddings().weight
    logits = hidden.detach() @ head[:40].T
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    torch.testing.assert_close(output.loss, expected.float(), rtol=1e-5, atol=1e-5)
    assert not head.grad[40:].any()
    assert head.grad[:40].any()


def test_no_logits_are_made(monkeypatch):
    model, linear, widths = make("llama"), F.linear, []

    def counted(*args):
        widths.append(linear(*args).shape[-1])
        return linear(*args)

    monkeypatch.setattr(F, "linear", counted)
    hidden = hidden_states(model, model, batch_of(model))
    assert widths
    assert 50 not in widths
    assert hidden.shape == (3, 7, 32)
    assert model(**batch_of(model)).logits.shape == (3, 7, 50), "the head is itself afterwards"


def test_hooks_of_an_engine_see_the_result_and_may_replace_it():
    # ZeRO-3 and FSDP2 hang what gathers weights before the backward pass on what modules return.
    model, seen = make("llama"), []

    def doubled(_, __, result):
        seen.append(result)
        return 2 * result

    for module in (model.get_output_embeddings(), model):
        module.register_forward_hook(doubled)
    result = inside_head(model, model, batch_of(model), lambda hidden: hidden.sum())
    assert torch.equal(seen[1], 2 * seen[0])
    assert torch.equal(result, 4 * seen[0])


def test_a_forward_pass_that_a_library_has_put_on_the_head_is_there_afterwards():
    model = make("llama")
    head = model.get_output_embeddings()
    head.forward = own = lambda hidden: hidden[..., :1]
    hidden_states(model, model, batch_of(model))
    assert head.forward is own
    with pytest.raises(ZeroDivisionError):
        inside_head(model, model, batch_of(model), lambda hidden: 1 / 0)
    assert head.forward is own
