"""The recipe in miniature, on real models and files."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmkd import pipeline
from llmkd.check.deep import try_stages
from llmkd.errors import InputError, LlmkdError
from llmkd.recipe.schema import Recipe
from llmkd.run_plan import Run

SHAPE = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
TRAINER = {"max_steps": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
DATA = {"kind": "task", "digits": 2, "num_examples": 3000}


def recipe_of(tmp_path, **stages):
    content = {"name": "r", "output_dir": str(tmp_path / "run"), "stages": stages}
    return Recipe.model_validate_json(json.dumps(content))


def train(**parts):
    whole = {
        "kind": "train",
        "student": {"kind": "scratch", "config": SHAPE},
        "data": DATA,
        "losses": [{"kind": "cross_entropy"}],
        "trainer": TRAINER,
    }
    return whole | parts


def distil(teacher, **parts):
    losses = [{"kind": "forward_kl"}, {"kind": "cross_entropy", "weight": 0.5}]
    return train(teacher={"model_name_or_path": teacher}, losses=losses, **parts)


def tried(recipe):
    return {result.name: result for result in try_stages(Run(recipe), told=lambda _: None)}


@pytest.fixture
def whole(tmp_path):
    generate = {
        "kind": "generate",
        "teacher": {"model_name_or_path": "stage:teacher"},
        "data": DATA,
    }
    evaluate = {"kind": "evaluate", "models": ["stage:student"], "suite": "procedural"}
    return recipe_of(
        tmp_path,
        teacher=train(),
        answers=generate,
        student=distil(
            "stage:teacher",
            data={"dataset_name": "stage:answers"},
            student={"kind": "scratch", "config": {**SHAPE, "num_hidden_layers": 1}},
        ),
        tuned=distil(
            "stage:teacher",
            student={"model_name_or_path": "stage:student", "lora": {"r": 2}},
            data={"dataset_name": "stage:answers", "packing": True},
        ),
        measured=evaluate,
    )


def test_every_stage_is_tried_with_stand_ins_and_nothing_is_written(whole, tmp_path):
    before = set(tmp_path.iterdir())
    results = tried(whole)
    assert set(tmp_path.iterdir()) == before
    assert {name: result.stand_ins for name, result in results.items()} == {
        "teacher": [],
        "answers": ["teacher"],
        "student": ["teacher", "answers"],
        "tuned": ["student", "teacher", "answers"],
        "measured": ["student"],
    }
    batch = results["student"].batch
    assert batch.loss == pytest.approx(
        batch.losses["loss/forward_kl"] + 0.5 * batch.losses["loss/cross_entropy"], rel=1e-5
    )
    assert set(batch.grad_norms) == {"grad_norm/forward_kl", "grad_norm/cross_entropy"}
    # The triangle inequality, and no term without a part in it.
    assert 0 < batch.grad_norm <= sum(batch.grad_norms.values())
    assert batch.num_tokens > 8 * 10
    assert results["answers"].batch is None


def test_a_finished_stage_lends_its_own_product(tmp_path):
    recipe = recipe_of(tmp_path, teacher=train(), student=distil("stage:teacher"))
    pipeline.run(recipe)
    model = tmp_path / "run" / "stages" / "teacher" / "model"
    results = tried(recipe)
    assert results["student"].stand_ins == []
    trained = results["student"].batch.losses["teacher_nll"]
    (model / "config.json").unlink()
    assert tried(recipe)["student"].stand_ins == ["teacher"]
    assert tried(recipe)["student"].batch.losses["teacher_nll"] != trained


def test_what_is_not_finite_is_named(tmp_path):
    losses = [{"kind": "cross_entropy", "weight": 1e39}]  # beyond float32
    recipe = recipe_of(tmp_path, teacher=train(losses=losses))
    with pytest.raises(LlmkdError, match=r"stages\.teacher: loss is inf, grad_norm is (nan|inf)"):
        tried(recipe)


def test_a_broken_teacher_is_named(tmp_path, tokenizer, tiny_llama):
    model = tiny_llama(tokenizer)
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    model.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    recipe = recipe_of(tmp_path, student=distil(str(tmp_path / "teacher")))
    with pytest.raises(InputError, match="teacher: the model's logits are not finite"):
        tried(recipe)


def test_bad_input_of_a_later_stage_is_found(tmp_path, tokenizer, tiny_llama):
    tiny_llama(tokenizer).save_pretrained(tmp_path / "teacher")
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(tmp_path / "teacher")
    student = distil(str(tmp_path / "teacher"), student={"model_name_or_path": "stage:first"})
    recipe = recipe_of(tmp_path, first=train(), student=student)
    with pytest.raises(InputError, match="different tokenizers: 1 tokens differ"):
        tried(recipe)


def test_the_stand_in_of_a_lora_student_is_whole(whole, tmp_path, monkeypatch):
    seen = []
    load = AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        AutoModelForCausalLM,
        "from_pretrained",
        lambda path, **settings: seen.append(str(path)) or load(path, **settings),
    )
    stages = whole.model_dump()["stages"]
    stages["measured"]["models"] = ["stage:tuned"]
    tried(recipe_of(tmp_path, **stages))
    assert seen[-1].endswith("tuned/model")


@pytest.mark.parametrize("student_data", ["dataset", "store", "kept"])
def test_conversations_are_answered_and_stood_in_for(
    tmp_path, chat_tokenizer, tiny_llama, student_data
):
    # Rewrites earlier turns, so that the assistant's part could not be told in scoring.
    chat_tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ loop.length if m.role == 'user' }}{{ m.content }}"
        "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    tiny_llama(chat_tokenizer).save_pretrained(tmp_path / "teacher")
    chat_tokenizer.save_pretrained(tmp_path / "teacher")
    turns = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]
    row = {"messages": turns, "question": "a"}
    (tmp_path / "rows.jsonl").write_text((json.dumps(row) + "\n") * 20)
    generate = {
        "kind": "generate",
        "teacher": {"model_name_or_path": str(tmp_path / "teacher")},
        "data": {"dataset_name": str(tmp_path / "rows.jsonl"), "keep_columns": ["question"]},
        "capture": {"top_k": 4},
    }
    data = {"kind": "store", "path": "stage:answers"}
    if student_data == "dataset":
        data = {"dataset_name": "stage:answers", "assistant_only_loss": False}
    if student_data == "kept":
        # The tokenizer has no end-of-text token.
        columns = {"prompt": "question"}
        data = {"dataset_name": "stage:answers", "columns": columns, "append_eos": False}
    student = train(
        student={"model_name_or_path": str(tmp_path / "teacher")},
        teacher={"kind": "store", "path": "stage:answers"} if student_data == "store" else None,
        data=data,
        losses=[{"kind": "forward_kl" if student_data == "store" else "cross_entropy"}],
    )
    found = tried(recipe_of(tmp_path, answers=generate, student=student))
    assert found["student"].stand_ins == ["answers"]
    assert found["student"].batch.loss > 0
