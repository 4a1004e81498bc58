"""A teacher beside its student that is a base and an adapter."""

import json

import pytest

from llmkd.training.train import run_train


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_students_adapter_on_its_base_is_a_teacher_equal_to_it(
    train_stage, teacher_folder, tmp_path
):
    lora = {"model_name_or_path": str(teacher_folder), "lora": {"r": 4, "alpha": 8}}
    parts = {"losses": [{"kind": "cross_entropy"}], "teacher": None}
    run_train(train_stage(student=lora, **parts), tmp_path / "s", name="s", seed=0)
    base = {"model_name_or_path": str(teacher_folder)}
    adapted = base | {"adapter_name_or_path": str(tmp_path / "s" / "adapter")}
    divergences = {}
    for name, teacher in {"base": base, "adapted": adapted}.items():
        stage = train_stage(
            {"max_steps": 1},
            student={"model_name_or_path": str(tmp_path / "s" / "model")},
            teacher=teacher,
            losses=[{"kind": "forward_kl"}],
        )
        run_train(stage, tmp_path / name, name=name, seed=0)
        divergences[name] = metrics(tmp_path / name)[0]["loss"]
    assert divergences["base"] > 1e-3
    assert divergences["adapted"] == pytest.approx(0, abs=1e-6)
    assert f"with adapter {tmp_path}" in (tmp_path / "adapted/model/README.md").read_text()
