"""Agreement with a teacher, against sums written out token by token."""

import json

import numpy as np
import pytest
import torch

from llmkd.errors import InputError
from llmkd.evaluation.agreement import measure_agreement
from llmkd.evaluation.measured import Setting
from llmkd.evaluation.subject import Subject
from llmkd.recipe.distillation_effects import AgreementTask
from llmkd.recipe.models import PretrainedModel

TEXTS = ["1+2=3;#3", "12", "5+5=10;#10", "0+0=0"]


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    data = {"dataset_name": str(path), "max_length": 6}
    return AgreementTask.model_validate(
        {"kind": "agreement", "name": "near", "data": data, "top_k": 3}
    )


@pytest.fixture
def subject_of(tiny_llama, tokenizer, tmp_path):
    def make(seed, **config):
        folder = tmp_path / f"model-{seed}"
        tiny_llama(tokenizer, seed=seed, **config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return Subject(str(seed), PretrainedModel(model_name_or_path=str(folder), dtype="auto"))

    return make


def setting_of(teacher, subject, batch_size=3, folder=None):
    return Setting(subject, batch_size, 0, lambda *_: None, folder=folder, teacher=teacher)


def by_hand(student, teacher, tokenizer, vocab_size):
    """Each metric summed over tokens in float64, a window of six tokens at a time."""
    rows = []
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        for start in range(0, len(ids) - 1, 6):
            read = torch.tensor([ids[start : start + 7][:-1]])
            p, q = (
                model(read).logits[0, :, :vocab_size].double().softmax(1).detach().numpy()
                for model in (teacher, student)
            )
            for a, b in zip(p, q, strict=True):
                shared = set(np.argsort(-a)[:3]) & set(np.argsort(-b)[:3])
                rows.append(
                    [
                        a.argmax() == b.argmax(),
                        len(shared) / 3,
                        (a * np.log(a / b)).sum(),
                        (b * np.log(b / a)).sum(),
                        np.minimum(a, b).sum(),
                    ]
                )
    return np.mean(rows, 0)


def test_every_metric_is_its_definition_over_all_scored_tokens(task, subject_of, tokenizer):
    student, teacher = subject_of(0), subject_of(1)
    found = measure_agreement(student, task, setting_of(teacher, student))
    names = [one.metric for one in found.estimates]
    assert names == [
        "top_1_agreement", "top_k_overlap@3", "forward_kl", "reverse_kl", "acceptance"
    ]  # fmt: skip
    wanted = by_hand(student.model, teacher.model, tokenizer, len(tokenizer))
    np.testing.assert_allclose([one.found.value for one in found.estimates], wanted, rtol=1e-5)
    assert {one.num_examples for one in found.estimates} == {len(TEXTS)}


def test_a_model_agrees_with_itself_whatever_its_head_is_padded_with(task, subject_of, tokenizer):
    teacher = subject_of(3)
    found = measure_agreement(teacher, task, setting_of(teacher, teacher))
    assert [one.found.value for one in found.estimates] == pytest.approx([1, 1, 0, 0, 1], abs=1e-6)
    padded = subject_of(3).model
    padded.resize_token_embeddings(len(tokenizer) + 5)
    # Rows that stand for no token may say what they like.
    with torch.no_grad():
        padded.lm_head.weight[len(tokenizer) :] = 9.0
    folder = teacher.source.model_name_or_path + "-padded"
    padded.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    wide = Subject("wide", PretrainedModel(model_name_or_path=folder, dtype="auto"))
    found = measure_agreement(wide, task, setting_of(teacher, wide))
    assert [one.found.value for one in found.estimates] == pytest.approx([1, 1, 0, 0, 1], abs=1e-6)


def test_what_is_kept_is_not_compared_again_and_gives_the_same_bits(
    task, subject_of, tmp_path, monkeypatch
):
    student, teacher = subject_of(0), subject_of(1)
    setting = setting_of(teacher, student, folder=tmp_path / "kept")
    first = measure_agreement(student, task, setting)
    monkeypatch.setattr(type(student.model), "forward", None)  # Called, it would fail.
    again = measure_agreement(student, task, setting)
    for one, other in zip(first.estimates, again.estimates, strict=True):
        assert one.found.value == other.found.value
        np.testing.assert_array_equal(one.found.resampled, other.found.resampled)


def test_without_a_teacher_it_says_how_to_name_one(task, subject_of):
    student = subject_of(0)
    with pytest.raises(InputError, match="write --teacher MODEL"):
        measure_agreement(student, task, setting_of(None, student))
