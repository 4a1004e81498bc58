import json
import struct

import pytest
import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

from llmkd.check.facts import NotKnownError
from llmkd.check.weights import read_json, read_weights


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shards", ["1GB", "20KB"])
def test_a_saved_model_is_counted(tied, shards, tokenizer, tiny_llama, tmp_path):
    model = tiny_llama(tokenizer, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path, max_shard_size=shards)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shards == "20KB")

    weights = read_weights(tmp_path, read_json(tmp_path / "config.json"))

    assert weights.num_parameters == count(model)
    assert weights.num_embeddings == len(tokenizer)
    assert weights.bytes_per_parameter == 4


def test_the_type_is_that_of_the_files(tokenizer, tiny_llama, tmp_path):
    tiny_llama(tokenizer).to(torch.bfloat16).save_pretrained(tmp_path)

    assert read_weights(tmp_path, {}).bytes_per_parameter == 2


def test_a_head_that_is_saved_beside_the_embedding_it_is_tied_to_counts_once(tmp_path):
    shared = {"model.embed_tokens.weight": torch.zeros(5, 4), "lm_head.weight": torch.ones(5, 4)}
    save_file(shared, tmp_path / "model.safetensors")

    assert read_weights(tmp_path, {"tie_word_embeddings": True}).num_parameters == 20
    assert read_weights(tmp_path, {}).num_parameters == 40


def test_buffers_of_older_files_do_not_count(tmp_path):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=8, n_layer=1, n_head=2))
    tensors = {
        name: t.clone() for name, t in model.state_dict().items() if name != "lm_head.weight"
    }
    tensors["transformer.h.0.attn.bias"] = torch.zeros(1, 1, 6, 6)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(3)
    save_file(tensors, tmp_path / "model.safetensors")

    assert read_weights(tmp_path, {}).num_parameters == count(model)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "expected"), [("stories260K", 260_032), ("llama2xs279K", 279_232)]
)
def test_real_models_are_counted(name, expected, real_data):
    folder = real_data / "models" / name / "hf"

    assert read_weights(folder, read_json(folder / "config.json")).num_parameters == expected


def header(content):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        b"", b"abc", b"\xff" * 8, struct.pack("<Q", 10) + b"{}", header(b"[1]"), header(b"null"),
        header({"a": 3}), header({"a": {"dtype": "F32"}}), header(b"\xff\xfe"), header({}),
        header({"a": {"dtype": "F32", "shape": [2, -1]}}), header(b"[" * 100_000),
        header({"a": {"dtype": "F32", "shape": "ab"}}), header({"a": {"dtype": "I32", "shape": [1]}}),
        header({"a": {"dtype": ["F32"], "shape": [True, None]}}),
    ],
)  # fmt: skip
def test_a_broken_file_is_not_known(content, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(content)

    with pytest.raises(NotKnownError):
        read_weights(tmp_path, {})


@pytest.mark.parametrize(
    "index", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}', '{"weight_map": {}}',
              '{"weight_map": {"a": "../../etc/passwd"}}', '{"weight_map": {"a": "gone"}}']
)  # fmt: skip
def test_a_broken_index_is_not_known(index, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(index)

    with pytest.raises(NotKnownError):
        read_weights(tmp_path, {})


def test_no_files_and_quantized_ones_are_not_known(tmp_path):
    with pytest.raises(NotKnownError, match=r"no model.safetensors"):
        read_weights(tmp_path, {})
    with pytest.raises(NotKnownError, match="quantized"):
        read_weights(tmp_path, {"quantization_config": {}})
    with pytest.raises(NotKnownError, match="No such file"):
        read_json(tmp_path / "config.json")
