"""Seq2seq students and teachers from recipe to model folder."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from llmkd.data.addition import build_tokenizer
from llmkd.errors import InputError
from llmkd.training.train import build_trainer, run_train

T5 = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
BART = {
    "model_type": "bart", "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
CONFIGS = {"t5": T5, "bart": BART}
WITHOUT_DROPOUT = {"t5": {"dropout_rate": 0.0}, "bart": {"dropout": 0.0}}


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def assert_same_bits(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(params=["t5", "bart"])
def kind(request):
    return request.param


@pytest.fixture
def seq2seq_teacher(tmp_path, tokenizer, tiny_seq2seq, kind):
    """A saved teacher of another hidden size, with a vocabulary padded to 64."""
    folder = tmp_path / f"{kind}-teacher"
    tiny_seq2seq(tokenizer, kind, vocab_size=64).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def stage(train_stage, seq2seq_teacher, kind):
    """Makes a stage; `config` adds to the student's."""

    def make(trainer=None, config=None, **parts):
        student = {"kind": "scratch", "config": {**CONFIGS[kind], **(config or {})}}
        teacher = {"model_name_or_path": seq2seq_teacher}
        return train_stage(trainer, **{"student": student, "teacher": teacher, **parts})

    return make


def test_8x1_and_2x4_give_the_same_loss_and_gradients(stage, kind, sums, tmp_path, first_step):
    results = []
    for size, count in ((8, 1), (2, 4)):
        trainer = {"per_device_train_batch_size": size, "gradient_accumulation_steps": count}
        parts = {"config": WITHOUT_DROPOUT[kind], "data": {"dataset_name": sums()}}
        results.append(first_step(build_trainer(stage(trainer, **parts), tmp_path / "s", seed=0)))
    (loss, whole, _), (split_loss, split, _) = results
    assert split_loss == pytest.approx(loss, rel=1e-5)
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_the_loss_is_the_teachers_and_the_students_own_logits(
    stage, kind, sums, tmp_path, first_step
):
    """Against both models' full logits, one row at a time, without padding."""
    losses = [{"kind": "forward_kl"}, {"kind": "cross_entropy", "weight": 0.5}]
    parts = {"config": WITHOUT_DROPOUT[kind], "data": {"dataset_name": sums()}, "losses": losses}
    trainer = build_trainer(stage(**parts), tmp_path / "s", seed=0)
    loss, *_ = first_step(trainer)
    rows = next(iter(trainer.get_train_dataloader()))
    expected, num_tokens = 0.0, 0
    for ids, mask, read, targets in zip(
        rows["input_ids"], rows["attention_mask"], rows["decoder_input_ids"], rows["target_ids"],
        strict=True,
    ):  # fmt: skip
        length = int((targets != -100).sum())
        inputs = {"input_ids": ids[mask.bool()][None], "decoder_input_ids": read[None, :length]}
        with torch.no_grad():
            p, q = (
                model(**inputs).logits[0, :, :18].log_softmax(-1)
                for model in (trainer.teacher.model, trainer.model)
            )
        expected += (p.exp() * (p - q)).sum().item()
        expected -= 0.5 * q.gather(1, targets[:length, None]).sum().item()
        num_tokens += length
    assert loss == pytest.approx(expected / num_tokens, rel=1e-5)


@pytest.mark.parametrize("lora", [None, {"r": 4, "dropout": 0.1}])
def test_an_interrupted_run_ends_in_the_same_bits(stage, seq2seq_teacher, lora, tmp_path):
    student = {"student": {"model_name_or_path": seq2seq_teacher, "lora": lora}} if lora else {}
    # A student that equals its teacher learns from the rows alone.
    losses = {"losses": [{"kind": "cross_entropy"}]} if lora else {}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_train(stage(**student, **losses), whole, name="s", seed=0)
    run_train(stage(**student, **losses), cut, name="s", seed=0)
    back = str(cut / "checkpoints" / "checkpoint-4")
    run_train(stage(**student, **losses, resume=back), cut, name="s", seed=0)
    # Dropout is on, as it is by default in these architectures.
    assert_same_bits(whole, cut)
    timed = {"tokens_per_s", "peak_memory_gib"}
    logs = [[{k: v for k, v in line.items() if k not in timed} for line in metrics(folder)]
            for folder in (whole, cut)]  # fmt: skip
    assert logs[0] == logs[1]


def test_a_streamed_run_resumes_in_the_same_bits(stage, sums, tmp_path):
    data = {"dataset_name": sums(), "max_length": 48, "streaming": True}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_train(stage(data=data), whole, name="s", seed=0)
    run_train(stage(data=data), cut, name="s", seed=0)
    back = str(cut / "checkpoints" / "checkpoint-4")
    run_train(stage(data=data, resume=back), cut, name="s", seed=0)
    assert_same_bits(whole, cut)


def test_rows_of_like_length_are_grouped_by_both_sides(stage, sums, tmp_path):
    trainer = {
        "train_sampling_strategy": "group_by_length",
        "per_device_train_batch_size": 4,
    }
    built = build_trainer(stage(trainer, data={"dataset_name": sums(num_rows=400)}), tmp_path / "s", seed=0)  # fmt: skip
    batches = list(built.get_train_dataloader())
    used = sum(int(b["attention_mask"].sum() + (b["target_ids"] != -100).sum()) for b in batches)
    whole = sum(b["attention_mask"].numel() + b["target_ids"].numel() for b in batches)
    assert used / whole > 0.8, "at random it is 0.6"


def test_a_student_equal_to_its_teacher_has_no_divergence_and_no_gradient(
    stage, seq2seq_teacher, tmp_path, first_step
):
    student = {"model_name_or_path": seq2seq_teacher}
    losses = [{"kind": "reverse_kl"}, {"kind": "jsd"}]
    trainer = build_trainer(stage(student=student, losses=losses), tmp_path / "s", seed=0)
    trainer.model.eval()
    loss, gradients, _ = first_step(trainer)
    assert loss == pytest.approx(0, abs=1e-6)
    assert max(gradient.abs().max() for gradient in gradients.values()) < 1e-5


def test_a_lora_student_is_saved_merged_with_its_adapter_beside_it(
    stage, seq2seq_teacher, kind, tmp_path
):
    targets = {"t5": ["q", "v"], "bart": ["q_proj", "v_proj"]}[kind]
    for target_modules in ("all-linear", targets):
        lora = {"r": 4, "alpha": 8, "target_modules": target_modules}
        student = {"model_name_or_path": seq2seq_teacher, "lora": lora}
        losses = [{"kind": "cross_entropy"}, {"kind": "forward_kl"}]
        folder = tmp_path / str(target_modules)
        run_train(stage(student=student, losses=losses), folder, name="s", seed=0)
        before = AutoModelForSeq2SeqLM.from_pretrained(seq2seq_teacher).state_dict()
        after = AutoModelForSeq2SeqLM.from_pretrained(folder / "model").state_dict()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed
        assert all("Attention" in name or "_attn" in name or "Dense" in name or "fc" in name
                   for name in changed), "only the adapted layers move"  # fmt: skip
        config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
        assert config["task_type"] == "SEQ_2_SEQ_LM"


def test_gradient_checkpointing_and_bf16_change_the_loss_within_rounding_only(
    stage, kind, tmp_path
):
    logs = {}
    for name, trainer in {
        "plain": {},
        "checkpointed": {"gradient_checkpointing": True},
        "bf16": {"bf16": True},
    }.items():
        run_train(stage(trainer, WITHOUT_DROPOUT[kind]), tmp_path / name, name=name, seed=0)
        logs[name] = [line["loss"] for line in metrics(tmp_path / name)]
    # T5's layers share their position biases, whose gradients are then added in another order.
    assert logs["checkpointed"] == pytest.approx(logs["plain"], rel=1e-5)
    # bfloat16 has 8 bits of mantissa: 2 ** -8 per product, averaged over a few hundred tokens.
    assert logs["bf16"] == pytest.approx(logs["plain"], rel=2e-2)
    assert logs["bf16"] != logs["plain"]


def test_the_product_loads_generates_and_has_no_padded_embeddings(stage, tokenizer, tmp_path):
    run_train(stage(config={"vocab_size": 64}), tmp_path / "s", name="s", seed=0)
    folder = tmp_path / "s" / "model"
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert model.get_output_embeddings().weight.shape == (len(tokenizer), 16)
    assert model.config.vocab_size == len(tokenizer)
    prompt = AutoTokenizer.from_pretrained(folder)("12+34=", return_tensors="pt")
    prompt.pop("token_type_ids", None)
    written = model.generate(**prompt, max_new_tokens=5, do_sample=False)
    assert written[0, 0] == model.config.decoder_start_token_id


def test_a_teacher_of_another_kind_is_refused(
    stage, train_stage, teacher_folder, seq2seq_teacher, tmp_path
):
    with pytest.raises(InputError, match="student is a seq2seq model and the teacher a causal"):
        build_trainer(stage(teacher={"model_name_or_path": str(teacher_folder)}), tmp_path, seed=0)
    with pytest.raises(InputError, match="student is a causal model and the teacher a seq2seq"):
        build_trainer(
            train_stage(teacher={"model_name_or_path": seq2seq_teacher}), tmp_path, seed=0
        )


@pytest.mark.parametrize("kind", ["bart"], indirect=True)  # T5 has no positions to run out of.
def test_positions_are_counted_side_by_side(stage, sums, tmp_path):
    # The longest prompt has 21 tokens, the longest answer with its begin and end 9.
    data = {"dataset_name": sums()}
    build_trainer(stage(config={"max_position_embeddings": 21}, data=data), tmp_path, seed=0)
    with pytest.raises(InputError, match=r"21 tokens .* the student has 20 positions"):
        build_trainer(stage(config={"max_position_embeddings": 20}, data=data), tmp_path, seed=0)


def test_packing_is_refused(stage, sums, tmp_path):
    with pytest.raises(InputError, match="packing: an encoder and a decoder read one example"):
        build_trainer(stage(data={"dataset_name": sums(), "packing": True}), tmp_path, seed=0)


def test_a_t5_learns_to_write_what_it_reads(train_stage, tmp_path):
    rows = [{"prompt": f"{i}", "completion": f"{i}"} for i in range(10)]
    (tmp_path / "copy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build_tokenizer().save_pretrained(tmp_path / "tokenizer")
    stage = train_stage(
        {"max_steps": 150, "per_device_train_batch_size": 10, "save_strategy": "no"},
        student={
            "kind": "scratch",
            "config": {**T5, "dropout_rate": 0.0, "d_model": 32},
            "tokenizer_name_or_path": str(tmp_path / "tokenizer"),
        },
        teacher=None,
        data={"dataset_name": str(tmp_path / "copy.jsonl")},
        losses=[{"kind": "cross_entropy"}],
    )
    run_train(stage, tmp_path / "s", name="s", seed=0)
    assert metrics(tmp_path / "s")[-1]["loss"] < 0.05
