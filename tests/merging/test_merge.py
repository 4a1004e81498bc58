"""Merging from files equals merging in memory, and whatever cannot be merged is refused before."""

import json
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from llmkd.errors import InputError
from llmkd.merging.methods import cosine, slerp_coefficients


def weights_of(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()


def same(found, expected, atol=0.0):
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.allclose(tensor, expected[name], atol=atol, rtol=0), name


def mean(a, b):
    return {name: (a[name].float() * 0.5 + b[name].float() * 0.5).to(a[name].dtype) for name in a}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("max_shard_size", ["5GB", "9KB"])
def test_a_mean_equals_the_mean_of_the_loaded_models(saved, merged, tied, max_shard_size):
    a = saved("a", 1, tie_word_embeddings=tied, max_shard_size="10KB")
    b = saved("b", 2, tie_word_embeddings=tied)
    folder = merged(a, b, kind="linear", max_shard_size=max_shard_size)
    same(weights_of(folder), mean(weights_of(a), weights_of(b)))
    files = sorted(folder.glob("*.safetensors"))
    assert (len(files) == 1) == (max_shard_size == "5GB")
    # The widest matrices have 64 x 32 numbers of 4 bytes; 600 are room for the header.
    assert all(file.stat().st_size <= 9000 + 1500 for file in files) or len(files) == 1


def test_slerp_goes_tensor_by_tensor(saved, merged):
    a, b = saved("a", 1), saved("b", 2)
    ours, theirs = weights_of(a), weights_of(b)
    expected = {}
    for name, tensor in ours.items():
        x, y = slerp_coefficients(cosine(tensor, theirs[name]), 0.3)
        expected[name] = x * tensor + y * theirs[name]
    folder = merged(a, b, kind="slerp", weight=0.3)
    same(weights_of(folder), expected, atol=1e-6)
    told = json.loads((folder / "merge.json").read_text())
    # Norms are ones in both: two in each layer and the last.
    assert (told["num_tensors"], told["num_interpolated_linearly"]) == (len(ours), 5)
    assert [line["layer"] for line in told["cosines"]] == [0, 1, None]
    layer = [name for name in ours if ".layers.1." in name]
    cosines = {name: cosine(ours[name], theirs[name]) or 0.0 for name in layer}
    assert told["cosines"][1]["mean"] == pytest.approx(sum(cosines.values()) / len(layer))
    assert told["cosines"][1]["lowest"] == pytest.approx(min(cosines.values()))
    assert cosines[told["cosines"][1]["lowest_tensor"]] == min(cosines.values())


def test_the_type_of_the_first_is_kept_and_sums_are_in_float32(saved, merged):
    a, b = saved("a", 1, dtype=torch.bfloat16), saved("b", 2)
    folder = merged(a, b, kind="linear")
    expected = mean(weights_of(a), weights_of(b))
    assert {tensor.dtype for tensor in expected.values()} == {torch.bfloat16}
    same(weights_of(folder), expected)


def test_a_sum_in_half_precision_is_rounded_once(saved, merged):
    folders = [saved(name, seed, dtype=torch.bfloat16) for seed, name in enumerate("abc")]
    found = weights_of(merged(*folders, kind="linear", weights=[1.0, 2.0, 5.0]))
    each = [weights_of(folder) for folder in folders]
    for name, tensor in found.items():
        a, b, c = (weights[name].double() for weights in each)
        # A sum of bfloat16 that is rounded each time differs in one of four numbers.
        assert torch.equal(tensor, ((a + 2 * b + 5 * c) / 8).to(torch.bfloat16)), name


def test_task_arithmetic_adds_task_vectors_to_the_base(saved, merged):
    base, a, b = (saved(name, seed) for seed, name in enumerate(("base", "a", "b")))
    folder = merged(a, b, kind="task_arithmetic", base=base, weights=[0.5, -0.25])
    w = [weights_of(each) for each in (base, a, b)]
    expected = {n: t + 0.5 * (w[1][n] - t) - 0.25 * (w[2][n] - t) for n, t in w[0].items()}
    same(weights_of(folder), expected, atol=1e-6)


def test_a_head_that_is_tied_in_one_file_and_copied_in_the_other_is_left_out(saved, merged):
    a, b = (saved(name, seed, tie_word_embeddings=True) for seed, name in enumerate("ab"))
    tensors = load_file(b / "model.safetensors")
    assert "lm_head.weight" not in tensors
    head = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors | {"lm_head.weight": head}, b / "model.safetensors", {"format": "pt"})
    for first, second in ((a, b), (b, a)):
        folder = merged(first, second, kind="linear")
        assert "lm_head.weight" not in load_file(folder / "model.safetensors")
        same(weights_of(folder), mean(weights_of(first), weights_of(second)))
    # Loading takes a head that differs for one of its own.
    head[0] += 1
    save_file(tensors | {"lm_head.weight": head}, b / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"models\.1: .*lm_head\.weight differs from model\.embed"):
        merged(a, b, kind="linear")


def test_an_adapter_is_merged_into_its_model_first(saved, merged, tmp_path, lora):
    folder = saved("base", 1)
    model = AutoModelForCausalLM.from_pretrained(folder)
    adapted = [
        lora(model, tmp_path / name, seed=seed, use_rslora=seed > 3)
        for seed, name in ((3, "p"), (4, "q"))
    ]
    found = merged(tmp_path / "p", tmp_path / "q", kind="linear")
    expected = mean(*(each.state_dict() for each in adapted))
    same(weights_of(found), expected, atol=1e-6)
    both = merged(tmp_path / "p", folder, kind="slerp", weight=1.0)
    same(weights_of(both), model.state_dict())


def test_an_adapter_of_gpt2_is_turned_as_its_layers_are(merged, tmp_path, tokenizer):
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "gpt2")
    settings = peft.LoraConfig(
        r=3, target_modules=["c_attn"], init_lora_weights=False, fan_in_fan_out=True
    )
    adapted = peft.get_peft_model(model, settings)
    adapted.save_pretrained(tmp_path / "p")
    folder = merged(tmp_path / "gpt2", tmp_path / "p", kind="slerp", weight=1.0)
    same(weights_of(folder), adapted.merge_and_unload().state_dict(), atol=1e-6)


def test_everything_beside_the_weights_is_the_first_models(saved, merged):
    a, b = saved("a", 1), saved("b", 2)
    for name in ("generation_config.json", "tokenizer_config.json"):
        path = b / name
        path.write_text(path.read_text().replace("{", '{"of": "b",', 1))
    for name in ("pruning.json", "pytorch_model.bin.index.json"):
        (a / name).write_text("{}")
    folder = merged(a, b, kind="linear")
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        assert (folder / name).read_bytes() == (a / name).read_bytes()
    # What says how the first model was made, or where its weights are, is not true of the merged one.
    assert not [*folder.glob("pruning.json"), *folder.glob("*.index.json")]
    assert f"Merged from `{a}`, `{b}` by linear" in (folder / "README.md").read_text()


def test_the_order_of_work_does_not_show_in_the_bytes(saved, merged):
    a, b = saved("a", 1, max_shard_size="9KB"), saved("b", 2)
    folders = [merged(a, b, kind="slerp", output=name) for name in ("one", "two")]
    one, two = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders)
    assert one == two


def edited(folder, **tensors):
    found = load_file(folder / "model.safetensors")
    for name, change in tensors.items():
        change(found, name.replace("__", "."))
    save_file(found, folder / "model.safetensors", {"format": "pt"})


def nan(tensors, name):
    tensors[name].view(-1)[0] = float("nan")


def no_longer(tensors, name):
    del tensors[name]


def cut(tensors, name):
    tensors[name] = tensors[name][:-1].clone()


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (nan, "models.1: B: model.norm.weight holds NaN or an infinite number"),
        (no_longer, "models.1: B has no tensor model.norm.weight, which models.0 (A) has"),
        (cut, "models.1: B: model.norm.weight has shape [31], and in models.0 (A) shape [32]"),
    ],
)
def test_tensors_that_cannot_be_merged_are_named(saved, merged, tmp_path, change, expected):
    a, b = saved("a", 1), saved("b", 2)
    edited(b, model__norm__weight=change)
    with pytest.raises(InputError) as caught:
        merged(a, b, kind="slerp")
    message = str(caught.value).replace(str(a), "A").replace(str(b), "B")
    assert message.startswith(expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_hidden_layers": 1}, "num_hidden_layers is 1 and 2"),
        ({"hidden_size": 16}, "hidden_size is 16 and 32"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True and False"),
        # Of the same shapes.
        ({"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4}, "num_attention_heads is 8 and 4"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rope_parameters is .*500000"),
        ({"rms_norm_eps": 1e-3}, "rms_norm_eps is 0.001 and 1e-06"),
    ],
)  # fmt: skip
def test_another_architecture_is_refused_even_of_equal_shapes(saved, merged, config, expected):
    a, b = saved("a", 1), saved("b", 2, **config)
    with pytest.raises(InputError, match=f"is of another architecture than models.0.*{expected}"):
        merged(a, b, kind="linear")


def test_another_meaning_of_token_ids_is_refused(saved, merged):
    a, b = saved("a", 1), saved("b", 2)
    content = json.loads((b / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["+"], vocabulary["="] = vocabulary["="], vocabulary["+"]
    (b / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"models\.1.*2 tokens differ, such as '\+', '='"):
        merged(a, b, kind="linear")


def test_files_that_are_missing_broken_or_pickled_are_told(saved, merged, tmp_path):
    a, b = saved("a", 1), saved("b", 2, max_shard_size="9KB")
    first = min(b.glob("*.safetensors"))
    content = first.read_bytes()
    first.write_bytes(content[:-5])
    with pytest.raises(InputError, match=f"models.1: {first}: no whole safetensors file"):
        merged(a, b, kind="linear")
    first.unlink()
    with pytest.raises(InputError, match=f"models.1: {first}: no whole safetensors file"):
        merged(a, b, kind="linear")
    (b / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(InputError, match=r"models\.1: .*no index of weights"):
        merged(a, b, kind="linear")
    (b / "model.safetensors.index.json").unlink()
    with pytest.raises(InputError, match=r"models\.1: .*no model\.safetensors nor"):
        merged(a, b, kind="linear")
    (b / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"models\.1: .*pickled weights only.*save_pretrained"):
        merged(a, b, kind="linear")
    with pytest.raises(InputError, match="no model could be loaded"):
        merged(a, tmp_path / "nowhere", kind="linear")
    assert not (tmp_path / "merged").exists()


def test_weights_that_cannot_be_averaged_are_refused(saved, merged):
    a, b = saved("a", 1), saved("b", 2)
    edited(b, model__norm__weight=lambda t, n: t.update({n: t[n].to(torch.float8_e4m3fn)}))
    with pytest.raises(InputError, match=r"model\.norm\.weight is of type F8_E4M3"):
        merged(a, b, kind="linear")
    config = json.loads((a / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (a / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"models\.0: .* is quantized"):
        merged(a, a, kind="linear")


def test_a_result_too_large_for_its_type_is_told(saved, merged):
    a, b = saved("a", 1, dtype=torch.float16), saved("b", 2)
    with pytest.raises(InputError, match="too large for F16; write smaller weights"):
        merged(a, b, kind="linear", weights=[1e6, 1.0], normalize=False)


def test_whole_numbers_must_be_the_same(saved, merged):
    a, b = saved("a", 1), saved("b", 2)
    for folder, value in ((a, 3), (b, 3)):
        edited(folder, steps=lambda t, n, value=value: t.update({n: torch.tensor(value)}))
    for folder in (a, b):
        edited(folder, a__flags=lambda t, n: t.update({n: torch.tensor([True, False, True])}))
    path = merged(a, b, kind="linear") / "model.safetensors"
    found = load_file(path)
    assert (found["steps"].item(), found["a.flags"].tolist()) == (3, [True, False, True])
    # Three bytes of flags would set what follows off its places, where they are not last.
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    del header["__metadata__"], header["a.flags"]
    starts = [entry["data_offsets"][0] for entry in header.values()]
    assert len(starts) == 22
    assert all(start % 4 == 0 for start in starts)
    edited(b, steps=lambda t, n: t.update({n: torch.tensor(4)}))
    with pytest.raises(InputError, match="steps holds whole numbers"):
        merged(a, b, kind="linear")


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ({"use_dora": True}, "more than a plain LoRA update.*use_dora: True"),
        ({"peft_type": "IA3"}, "is an adapter of type IA3"),
        ({"base_model_name_or_path": None}, "does not say which model it adapts"),
        ({"base_model_name_or_path": "ITSELF"}, "which is an adapter itself"),
        ({"base_model_name_or_path": "OTHER"}, r"is of another model: it adapts model\.layers\.\d"),
        ({"base_model_name_or_path": 5}, "does not say which model it adapts"),
        ({"lora_alpha": None}, "has r: 4 and lora_alpha: None, which give no scale"),
        ({"r": 0}, "has r: 0 and lora_alpha: .*, which give no scale"),
        ([1], r"adapter_config\.json has no fields"),
        ("adapter_model.safetensors", r"no whole adapter_model\.safetensors"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_told(saved, merged, tmp_path, lora, edit, expected):
    base, other = saved("base", 1), saved("other", 1, hidden_size=16)
    lora(AutoModelForCausalLM.from_pretrained(base), tmp_path / "p")
    if isinstance(edit, str):
        (tmp_path / "p" / edit).unlink()
    elif isinstance(edit, list):
        (tmp_path / "p" / "adapter_config.json").write_text(json.dumps(edit))
    else:
        path = tmp_path / "p" / "adapter_config.json"
        names = {"ITSELF": str(tmp_path / "p"), "OTHER": str(other)}
        changed = {key: names.get(value, value) for key, value in edit.items()}
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(InputError, match=expected):
        merged(tmp_path / "p", base, kind="linear")


def test_an_adapter_of_a_tied_head_is_refused(saved, merged, tmp_path, lora):
    base = saved("base", 1, tie_word_embeddings=True)
    edited(base, lm_head__weight=lambda t, n: t.update({n: t["model.embed_tokens.weight"].clone()}))
    lora(AutoModelForCausalLM.from_pretrained(base), tmp_path / "p", target_modules=["lm_head"])
    with pytest.raises(InputError, match=r"lm_head\.base_layer\.weight is no part of a plain"):
        merged(tmp_path / "p", base, kind="linear")


@pytest.mark.parametrize(
    ("models", "method", "expected"),
    [
        ("abc", {"kind": "slerp"}, "models: slerp is between two models, and here are 3"),
        ("a", {"kind": "slerp"}, "models: slerp is between two models, and here is 1"),
        ("a", {"kind": "linear"}, "models: one model is nothing to merge"),
        ("ab", {"kind": "linear", "weights": [1.0]}, "method.weights: 1 weights for 2 models"),
        ("ab", {"kind": "linear", "weights": [1.0, -1.0]}, "method.weights: their sum is 0"),
        # In floating point 0.1 + 0.2 - 0.3 is 5.6e-17.
        ("aba", {"kind": "linear", "weights": [0.1, 0.2, -0.3]}, "method.weights: their sum is 0"),
        ("a", {"kind": "task_arithmetic", "base": "x", "weights": []}, "method.weights: 0 weights"),
    ],
)  # fmt: skip
def test_weights_and_models_must_go_together(merged, models, method, expected):
    with pytest.raises(InputError) as caught:
        merged(*models, **method)
    assert str(caught.value).startswith(expected)


def test_an_older_result_is_replaced_whole_and_a_failure_leaves_it(saved, merged):
    a, b = saved("a", 1), saved("b", 2)
    folder = merged(a, a, kind="linear", max_shard_size="9KB")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    spoiled = shutil.copytree(b, b.with_name("spoiled"))
    edited(spoiled, model__norm__weight=nan)
    with pytest.raises(InputError):
        merged(a, spoiled, kind="linear")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    merged(a, b, kind="linear")
    assert [p.name for p in folder.glob("*.safetensors")] == ["model.safetensors"]
