"""A pruned student learns from what its unpruned teacher said once, kept in a store."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmkd.recipe.load import checked_recipe
from llmkd.run_plan import Run
from llmkd.run_stage import run_stage

DATA = {"dataset_name": "rows.jsonl", "max_length": 32}


def test_it_learns_the_same_from_the_store_as_from_the_teacher_beside_it(
    tmp_path, tokenizer, tiny_llama, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    tiny_llama(tokenizer, num_hidden_layers=3).save_pretrained("teacher")
    tokenizer.save_pretrained("teacher")
    rows = "".join(json.dumps({"text": f"{i}+{i % 7}={i + i % 7};"}) + "\n" for i in range(24))
    (tmp_path / "rows.jsonl").write_text(rows)
    unpruned = {"model_name_or_path": "./teacher"}

    def healed(teacher):
        return {
            "kind": "train",
            "student": {"model_name_or_path": "stage:pruned"},
            "teacher": teacher,
            "data": DATA,
            "losses": [{"kind": "forward_kl"}],
            "trainer": {
                "max_steps": 3,
                "per_device_train_batch_size": 8,
                "learning_rate": 1e-2,
                "lr_scheduler_type": "constant",
                "logging_steps": 1,
                "use_cpu": True,
            },
        }

    stages = {
        "pruned": {
            "kind": "prune",
            "model": unpruned,
            "data": DATA,
            "num_examples": 20,
            "depth": {"remove_layers": 1},
            "width": {"intermediate_size": 40},
        },
        # All tokens that there are, as they are: nothing is lost in the store.
        "said": {
            "kind": "score",
            "teacher": unpruned,
            "engine": {"kind": "transformers"},
            "data": DATA,
            "capture": {"kind": "top_k", "top_k": len(tokenizer), "precision": "float32"},
        },
        "healed": healed({"kind": "store", "path": "stage:said"}),
        "healed_beside": healed(unpruned),
    }
    job = Run(
        checked_recipe({"name": "heal", "output_dir": str(tmp_path / "run"), "stages": stages})
    )
    for name in stages:
        run_stage(job, name)

    def losses(name):
        lines = (tmp_path / f"run/stages/{name}/metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    assert losses("healed") == pytest.approx(losses("healed_beside"), rel=1e-5)
    assert losses("healed")[-1] < losses("healed")[0]
    ours, theirs, pruned = (
        AutoModelForCausalLM.from_pretrained(tmp_path / f"run/stages/{name}/model").state_dict()
        for name in ("healed", "healed_beside", "pruned")
    )
    for name, tensor in ours.items():
        assert torch.allclose(tensor, theirs[name], atol=1e-4), name
        assert not torch.equal(tensor, pruned[name]), name
