"""A cut model computes what the whole one does with the parts that are cut bypassed or at zero."""

import contextlib
import copy

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from llmkd.check.architectures import shape_of
from llmkd.errors import InputError
from llmkd.pruning.fields import SIZES, size_problems
from llmkd.pruning.surgery import check_prunable, keep_channels, keep_head_groups, remove_layers
from llmkd.recipe.pruning import PruneStage

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
CHANNELS = torch.tensor([[0, 3, 7, 19], [1, 2, 3, 4], [5, 9, 13, 17], [0, 1, 18, 19], [2, 4, 6, 8]])
GROUPS = torch.tensor([[0, 3], [1, 2], [0, 1], [2, 3], [1, 3]])


@contextlib.contextmanager
def bypassed(model, layers):
    """The model with some layers giving out what comes in."""
    hooks = [
        model.model.layers[layer].register_forward_hook(lambda _, inputs, output: inputs[0])
        for layer in layers
    ]
    yield
    for hook in hooks:
        hook.remove()


@contextlib.contextmanager
def masked(model, kept, path, width):
    """The model with all but some inputs of a linear layer at zero, in every layer."""

    def hook(keep):
        def zero(_, inputs):
            parts = inputs[0].unflatten(-1, (-1, width)).clone()
            others = [part for part in range(parts.shape[-2]) if part not in keep]
            parts[..., others, :] = 0
            return (parts.flatten(-2),)

        return zero

    hooks = [
        layer.get_submodule(path).register_forward_pre_hook(hook(keep.tolist()))
        for layer, keep in zip(model.model.layers, kept, strict=True)
    ]
    yield
    for hook_ in hooks:
        hook_.remove()


def logits(model, batch):
    return model(**batch).logits[batch["attention_mask"].bool()]


def written(model):
    """Greedy tokens after two prompts, with the key-value cache."""
    prompt = torch.tensor([[5, 9, 21, 33, 7], [3, 4, 8, 15, 16]])
    settings = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    return model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings).tolist()


@pytest.mark.parametrize("removed", [[1], [0, 3], [2, 3, 4], [4]])
def test_without_layers_it_is_the_model_that_bypasses_them(model, batch, removed):
    whole = copy.deepcopy(model)
    remove_layers(model, removed)
    with bypassed(whole, removed):
        expected, texts = logits(whole, batch), written(whole)
    torch.testing.assert_close(logits(model, batch), expected, **CLOSE)
    assert written(model) == texts
    assert not torch.allclose(logits(whole, batch), expected, **CLOSE)


def test_the_cache_has_a_place_for_each_layer_that_is_left(model, batch):
    remove_layers(model, [1, 2])
    cache = model(**batch, use_cache=True).past_key_values
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2]
    assert len(cache.layers) == 3
    assert all(layer.keys is not None for layer in cache.layers)


def test_layers_keep_their_kinds_of_attention(build):
    model = build("qwen3")
    full, sliding = "full_attention", "sliding_attention"
    assert model.config.layer_types == [full, full, sliding, sliding, sliding]
    remove_layers(model, [1, 3])
    assert model.config.layer_types == [full, sliding, sliding]
    assert model.config.max_window_layers == 1
    assert model.config.num_hidden_layers == 3


def test_narrow_mlps_are_the_models_with_the_other_channels_at_zero(model, batch):
    whole = copy.deepcopy(model)
    keep_channels(model, CHANNELS)
    with masked(whole, CHANNELS, "mlp.down_proj", 1):
        expected, texts = logits(whole, batch), written(whole)
    torch.testing.assert_close(logits(model, batch), expected, **CLOSE)
    assert written(model) == texts
    assert not torch.allclose(logits(whole, batch), expected, **CLOSE)


def test_fewer_heads_are_the_model_with_the_other_groups_at_zero(model, batch):
    whole = copy.deepcopy(model)
    width = 2 * whole.model.layers[0].self_attn.head_dim
    keep_head_groups(model, GROUPS)
    with masked(whole, GROUPS, "self_attn.o_proj", width):
        expected, texts = logits(whole, batch), written(whole)
    torch.testing.assert_close(logits(model, batch), expected, **CLOSE)
    assert written(model) == texts
    assert not torch.allclose(logits(whole, batch), expected, **CLOSE)


def cut(model):
    remove_layers(model, [1, 2])
    keep_channels(model, CHANNELS[[0, 3, 4]])
    keep_head_groups(model, GROUPS[[0, 3, 4]])


def test_a_cut_model_loads_as_it_was_saved(model, batch, tmp_path):
    cut(model)
    expected, texts = logits(model, batch), written(model)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded, batch), expected)
    assert written(loaded) == texts
    assert [getattr(loaded.config, name) for name in SIZES] == [3, 4, 4, 2]


def test_its_parameters_are_those_of_the_checks_formula(model):
    cut(model)
    assert shape_of(model.config.to_dict()).num_parameters == model.num_parameters()


def test_tied_embeddings_stay_tied(build, tmp_path):
    model = build("llama, tied")
    cut(model)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.tie_word_embeddings
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_the_type_of_the_weights_stays(build):
    model = build("qwen3").to(torch.bfloat16)
    cut(model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("name", ["stories260K", "llama2xs279K"])
def test_a_real_model_without_layers_bypasses_them(real_data, name):
    folder = real_data / "models" / name / "hf"
    model = AutoModelForCausalLM.from_pretrained(folder)
    whole = copy.deepcopy(model)
    ids = torch.arange(3, 40)[None]
    remove_layers(model, [2])
    with bypassed(whole, [2]):
        torch.testing.assert_close(model(ids).logits, whole(ids).logits, atol=1e-4, rtol=1e-4)


def test_an_adapted_model_is_refused(build):
    model = build("llama")
    # peft puts the adapters into the very model that it wraps.
    peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(InputError, match=r"in place of a linear layer.*merge_and_unload"):
        check_prunable(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(model, value):
    check_prunable(model)
    model.model.layers[3].mlp.up_proj.weight[1, 2] = value
    with pytest.raises(InputError, match=r"model\.layers\.3\.mlp\.up_proj\.weight holds"):
        check_prunable(model)


def test_another_architecture_is_refused_with_what_to_add(tokenizer, tiny_seq2seq):
    with pytest.raises(InputError, match=r"t5 is no architecture .*add to ARCHITECTURES in"):
        check_prunable(tiny_seq2seq(tokenizer))


def problems(config, **parts):
    stage = PruneStage.model_validate(
        {"kind": "prune", "model": {"model_name_or_path": "m"}, **parts}
    )
    return {".".join(map(str, key)): text for key, text in size_problems(config, stage)}


@pytest.mark.parametrize(
    ("depth", "key", "message"),
    [
        ({"remove_layers": 4}, "depth.remove_layers", "write at most 3, or protect fewer"),
        ({"remove_layers": 9, "protect_first": 0, "protect_last": 0}, "depth.remove_layers", "write at most 4, or leave depth out"),
        ({"remove_layers": 1, "protect_first": 3, "protect_last": 2}, "depth.remove_layers", "; protect fewer"),
        ({"layers": [1, 5]}, "depth.layers.1", "5 is no layer of the model, which has 5; write one of 0 to 4"),
        ({"layers": [0, 1, 2, 3, 4]}, "depth.layers", "leave one or more out"),
    ],
)  # fmt: skip
def test_more_layers_than_there_are_or_may_go_are_refused(build, depth, key, message):
    found = problems(build("qwen3").config.to_dict(), depth=depth)
    assert list(found) == [key]
    assert found[key].endswith(message)


@pytest.mark.parametrize(
    "depth",
    [
        {"remove_layers": 3},
        {"remove_layers": 4, "protect_first": 0},
        {"remove_layers": 4, "protect_first": 0, "protect_last": 0},
        {"layers": [0, 4]},
    ],
)
def test_as_many_layers_as_may_go_are_no_problem(build, depth):
    assert not problems(build("qwen3").config.to_dict(), depth=depth)


def test_sizes_that_are_not_smaller_are_refused(build):
    width = {"intermediate_size": 20, "num_key_value_heads": 7}
    found = problems(build("mistral").config.to_dict(), width=width)
    assert found["width.intermediate_size"].endswith("write at most 19, or leave it out")
    assert found["width.num_key_value_heads"].endswith("write at most 3, or leave it out")


def test_heads_that_do_not_divide_a_llamas_hidden_size_are_refused(build):
    config = build("llama").config.to_dict()
    # 2 query heads each: 1, 2 and 3 groups have 2, 4 and 6 of them, and all divide 48; not 40.
    assert not problems(config, width={"num_key_value_heads": 3})
    found = problems({**config, "hidden_size": 40}, width={"num_key_value_heads": 3})
    assert found["width.num_key_value_heads"].endswith("hidden_size of 40; write one of 1, 2")
