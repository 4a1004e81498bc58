"""A student as its teacher's draft: acceptance that is known beforehand."""

import json

import pytest

from llmkd.evaluation.draft import measure_draft
from llmkd.evaluation.measured import Setting
from llmkd.evaluation.subject import Subject
from llmkd.recipe.distillation_effects import DraftTask
from llmkd.recipe.models import PretrainedModel


@pytest.fixture
def measured(tiny_llama, tokenizer, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"{i}+{i}"}) + "\n" for i in range(8)))
    folders = []
    for seed in (0, 1):
        folders.append(tmp_path / f"model-{seed}")
        tiny_llama(tokenizer, seed=seed).save_pretrained(folders[-1])
        tokenizer.save_pretrained(folders[-1])

    def measure(student, teacher, *, is_one_copy=False, **fields):
        subjects = [
            Subject(str(i), PretrainedModel(model_name_or_path=str(folders[i]), dtype="auto"))
            for i in (student, teacher)
        ]
        task = DraftTask.model_validate(
            {"kind": "draft", "name": "d", "data": {"dataset_name": str(path)}, **fields}
        )
        setting = Setting(subjects[0], 1, 5, lambda *_: None, teacher=subjects[1])
        if is_one_copy:
            subjects[1].__dict__["model"] = subjects[0].model
        before = subjects[0].model.generation_config
        found = measure_draft(subjects[0], task, setting)
        assert subjects[0].model.generation_config is before
        return {one.metric: one.found.value for one in found.estimates}

    return measure


@pytest.mark.parametrize("is_one_copy", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_accepts_all_that_it_drafts_itself(measured, temperature, is_one_copy):
    found = measured(
        0,
        0,
        is_one_copy=is_one_copy,
        temperature=temperature,
        max_completion_length=18,
        num_draft_tokens=5,
    )
    assert found["measured_acceptance"] == 1
    assert found["acceptance"] == pytest.approx(1)
    # Five drafted tokens and one of the teacher's own in each of three rounds.
    assert found["tokens_per_round"] == 6
    assert found["speedup"] > 0


def test_measured_acceptance_is_near_what_the_distributions_say(measured):
    found = measured(1, 0, temperature=1.0, max_completion_length=60, num_draft_tokens=4)
    assert 0.05 < found["acceptance"] < 0.98
    # 8 x 60 tokens: three standard errors of a share are at most 0.07.
    assert found["measured_acceptance"] == pytest.approx(found["acceptance"], abs=0.07)
    alpha = found["measured_acceptance"]
    # Leviathan et al. 2023, equation 1, for tokens that are accepted independently.
    assert found["tokens_per_round"] == pytest.approx((1 - alpha**5) / (1 - alpha), rel=0.15)
