"""Teachers whose weights wait on the CPU, or have few bits."""

import json

import pytest
import torch

from llmkd.errors import InputError
from llmkd.models.load import load_model
from llmkd.recipe.models import InProcessTeacher as Source
from llmkd.teachers.in_process import InProcessTeacher, lent
from llmkd.training.train import run_train


def loss(folder):
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["loss"]


@pytest.mark.parametrize("vocab_size", [18, 24])
def test_the_head_of_a_lent_teacher_stays_when_its_weights_go_back(
    tokenizer, tiny_llama, monkeypatch, vocab_size
):
    # On a CPU nothing is lent; copies in the same memory are to the head what another device is.
    model = tiny_llama(tokenizer, vocab_size=vocab_size)
    teacher = InProcessTeacher(model, vocab_size=18, is_offloaded=True)
    monkeypatch.setattr(teacher, "awake", lambda device: lent(model, device))
    ids = torch.arange(6)[None]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    head = teacher.signals(batch, torch.ones(1, 6, dtype=torch.bool))
    own = model.get_output_embeddings().weight
    assert head.weight.untyped_storage().data_ptr() != own.untyped_storage().data_ptr()
    assert torch.allclose(head.logits(), model(**batch).logits[0, :, :18], atol=1e-5)


@pytest.mark.parametrize(("bits", "most"), [("8bit", 0.02), ("4bit", 0.2)])
def test_a_quantised_teacher_is_nearly_the_teacher(
    tokenizer, tiny_llama, train_stage, tmp_path, bits, most
):
    pytest.importorskip("bitsandbytes")
    tiny_llama(tokenizer, hidden_size=64).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    teacher = {"model_name_or_path": str(tmp_path / "teacher")}
    quantised = load_model(Source.model_validate(teacher | {"quantization": bits}))
    assert quantised.lm_head.weight.dtype == torch.float32
    packed = quantised.model.layers[0].mlp.up_proj.weight
    assert packed.dtype == {"8bit": torch.int8, "4bit": torch.uint8}[bits]
    losses = {}
    for name, more in {"whole": {}, bits: {"quantization": bits}}.items():
        stage = train_stage(
            {"max_steps": 1}, teacher=teacher | more, losses=[{"kind": "forward_kl"}]
        )
        run_train(stage, tmp_path / name, name=name, seed=0)
        losses[name] = loss(tmp_path / name)
    assert losses[bits] != losses["whole"]
    assert losses[bits] == pytest.approx(losses["whole"], rel=most)


def test_without_bitsandbytes_it_is_said_what_to_install(
    monkeypatch, tokenizer, tiny_llama, tmp_path
):
    tiny_llama(tokenizer).save_pretrained(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    source = Source(model_name_or_path=str(tmp_path), quantization="4bit")
    with pytest.raises(
        InputError, match=r"teacher.quantization: .*pip install 'llmkd\[quantized\]'"
    ):
        load_model(source)
