"""Adapters that are merged into the weights of a teacher."""

import json

import peft
import pytest
import torch

from llmkd.errors import InputError
from llmkd.models.head import check_head
from llmkd.models.load import load_model
from llmkd.recipe.models import PretrainedModel


@pytest.fixture
def base(tiny_llama, tokenizer, tmp_path):
    """A saved model: its folder, and the model."""
    model = tiny_llama(tokenizer)
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base", model


def load(folder, adapter, **more):
    source = {"model_name_or_path": str(folder), "adapter_name_or_path": str(adapter)}
    return load_model(PretrainedModel.model_validate(source | more))


def log_probs(model):
    with torch.no_grad():
        return model(torch.arange(18)[None]).logits[0].float().log_softmax(-1)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": ["q_proj", "down_proj"], "r": 1, "lora_alpha": 3},
        {"target_modules": ["v_proj", "lm_head"]},
    ],
)
def test_a_teacher_with_an_adapter_is_the_model_that_the_two_make(base, lora, tmp_path, settings):
    folder, model = base
    expected = lora(model, tmp_path / "adapter", **settings)
    found = load(folder, tmp_path / "adapter")
    torch.testing.assert_close(log_probs(found), log_probs(expected), rtol=1e-5, atol=1e-5)
    assert (log_probs(found) - log_probs(model)).abs().max() > 0.1
    # A plain model, whose output head the losses can read.
    assert type(found) is type(model)
    check_head(found, "teacher")


def test_parts_that_were_trained_whole_are_taken_too(base, tmp_path):
    folder, model = base
    settings = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])
    adapted = peft.get_peft_model(model, settings)
    for name, weight in adapted.named_parameters():
        if "modules_to_save" in name:
            weight.data.neg_()
    adapted.save_pretrained(tmp_path / "adapter")
    found = load(folder, tmp_path / "adapter")
    expected = torch.log_softmax(-load_model_logits(folder), -1)
    torch.testing.assert_close(log_probs(found), expected, rtol=1e-5, atol=1e-5)


def load_model_logits(folder):
    model = load_model(PretrainedModel(model_name_or_path=str(folder)))
    with torch.no_grad():
        return model(torch.arange(18)[None]).logits[0]


def test_in_half_precision_it_is_rounded_once_more(base, lora, tmp_path):
    folder, model = base
    expected = lora(model, tmp_path / "adapter").bfloat16()
    found = load(folder, tmp_path / "adapter", dtype="bfloat16")
    assert {weight.dtype for weight in found.parameters()} == {torch.bfloat16}
    # 8 bits of mantissa in each weight, and in what is computed with them.
    torch.testing.assert_close(log_probs(found), log_probs(expected), rtol=5e-2, atol=2e-1)


@pytest.mark.parametrize("shape", [{"hidden_size": 16}, {"num_hidden_layers": 3}])
def test_an_adapter_of_another_model_is_refused(base, lora, tiny_llama, tokenizer, tmp_path, shape):
    lora(tiny_llama(tokenizer, **shape), tmp_path / "adapter")
    with pytest.raises(
        InputError, match=r"^adapter_name_or_path: .*adapter (is of another|cannot)"
    ):
        load(base[0], tmp_path / "adapter")


def test_an_adapter_of_fewer_layers_is_refused(base, lora, tiny_llama, tokenizer, tmp_path):
    shallow = tiny_llama(tokenizer, num_hidden_layers=1)
    lora(shallow, tmp_path / "adapter", target_modules=["q_proj", "o_proj"])
    with pytest.raises(InputError, match=r"is of another model: 4 of its weights"):
        load(base[0], tmp_path / "adapter")


def test_a_folder_without_an_adapter_says_what_to_write(base, tmp_path):
    with pytest.raises(InputError, match=r"no adapter could be loaded .*peft's save_pretrained"):
        load(base[0], tmp_path)


def test_another_kind_of_adapter_is_refused(base, tmp_path):
    settings = peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[])
    peft.get_peft_model(base[1], settings).save_pretrained(tmp_path / "adapter")
    with pytest.raises(InputError, match="an adapter of type IA3; write one of type LORA"):
        load(base[0], tmp_path / "adapter")


def test_a_head_that_shares_its_weights_is_not_adapted(tiny_llama, tokenizer, lora, tmp_path):
    model = tiny_llama(tokenizer, tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "tied")
    lora(model, tmp_path / "layers")
    load(tmp_path / "tied", tmp_path / "layers")
    with pytest.warns(UserWarning, match="tie"):
        lora(model, tmp_path / "head", target_modules=["lm_head"])
    with pytest.raises(InputError, match="share their weights"):
        load(tmp_path / "tied", tmp_path / "head")


def test_weights_that_are_not_finite_are_refused(base, lora, tmp_path):
    broken = lora(base[1], tmp_path / "adapter", lora_alpha=float("inf"))
    assert not log_probs(broken).isfinite().all()
    text = (tmp_path / "adapter" / "adapter_config.json").read_text()
    assert json.loads(text)["lora_alpha"] == float("inf")
    with pytest.raises(InputError, match=r"cannot be put on .*NaNs"):
        load(base[0], tmp_path / "adapter")
