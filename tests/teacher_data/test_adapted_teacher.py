"""What a teacher with an adapter writes, and how a store knows it."""

import pytest
from transformers import AutoModelForCausalLM

from llmkd import build_engine
from llmkd.recipe.schema import GenerateStage
from llmkd.teacher_data.capture import run_capture
from llmkd.teacher_data.places import open_store
from llmkd.teacher_data.store import OtherSettingsError


@pytest.fixture
def teacher(tiny_llama, tokenizer, tmp_path):
    folder = tmp_path / "teacher"
    tiny_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def generate(teacher, **generation):
    return GenerateStage.model_validate(
        {
            "kind": "generate",
            "teacher": {"model_name_or_path": str(teacher)},
            "data": {"kind": "task", "num_examples": 23, "split": "unlabelled"},
            "engine": {"kind": "transformers"},
            "generation": {"max_completion_length": 12, **generation},
        }
    )


def run(stage, folder):
    run_capture(stage, folder, seed=3, progress=lambda done, total, **figures: None)


def with_adapter(a_stage, adapter):
    source = a_stage.teacher.model_copy(update={"adapter_name_or_path": str(adapter)})
    return a_stage.model_copy(update={"teacher": source})


def test_a_teacher_with_an_adapter_writes_what_the_merged_model_does(
    teacher, lora, tokenizer, tmp_path
):
    both = lora(AutoModelForCausalLM.from_pretrained(teacher), tmp_path / "adapter")
    both.save_pretrained(tmp_path / "both")
    tokenizer.save_pretrained(tmp_path / "both")
    texts = {}
    bare = generate(teacher, temperature=0, max_completion_length=40)
    stages = {"bare": bare, "adapted": with_adapter(bare, tmp_path / "adapter")}
    stages["merged"] = generate(tmp_path / "both", temperature=0, max_completion_length=40)
    for name, a_stage in stages.items():
        run(a_stage, tmp_path / name)
        texts[name] = [row.completion for row in open_store(tmp_path / name)]
    assert texts["adapted"] == texts["merged"] != texts["bare"]
    assert "with adapter" in open_store(tmp_path / "adapted").settings.teacher


def test_a_store_knows_its_teachers_adapter_by_its_content(teacher, lora, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(teacher)
    lora(model, tmp_path / "adapter")
    a_stage = with_adapter(generate(teacher), tmp_path / "adapter")
    run(a_stage, tmp_path / "out")
    with pytest.raises(OtherSettingsError, match="teacher_digest"):
        run(generate(teacher), tmp_path / "out")
    lora(model, tmp_path / "adapter", seed=6)
    with pytest.raises(OtherSettingsError, match="teacher_digest"):
        run(a_stage, tmp_path / "out")
    lora(model, tmp_path / "adapter")
    run(a_stage, tmp_path / "out")


def test_the_engine_that_is_taken_can_run_the_adapter(teacher, lora, tmp_path, monkeypatch):
    monkeypatch.setattr(build_engine, "find_spec", lambda name: name)
    free = generate(teacher).model_copy(update={"engine": None})
    model = AutoModelForCausalLM.from_pretrained(teacher)
    lora(model, tmp_path / "plain")
    lora(model, tmp_path / "odd", alpha_pattern={"q_proj": 3})
    kinds = [
        build_engine.engine_of(with_adapter(free, tmp_path / n)).kind for n in ("plain", "odd")
    ]
    assert kinds == ["vllm", "transformers"]
