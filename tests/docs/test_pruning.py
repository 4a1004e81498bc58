"""What docs/pruning.md shows is what llmkd reads and runs."""

import re
from pathlib import Path

import torch
import yaml
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from llmkd.recipe.load import checked_recipe
from llmkd.recipe.pruning import DepthPruning, WidthPruning

PAGE = (Path(__file__).parents[2] / "docs" / "pruning.md").read_text()


def block(language):
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


def test_its_recipe_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}\n')
    recipe = checked_recipe({"name": "pruned", **yaml.safe_load(block("yaml"))})
    assert recipe.stages["pruned"].kind == "prune"


def test_its_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = LlamaConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=24,
        num_attention_heads=1,
        vocab_size=9,
    )
    ids = torch.tensor([[1, 2, 3]])
    batches = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}]
    exec(block("python"), {"model": LlamaForCausalLM(config).eval(), "batches": batches})
    assert AutoModelForCausalLM.from_pretrained("pruned").config.num_hidden_layers == 21


def test_its_defaults_are_those_of_the_schema():
    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    written = [yaml.safe_load(text) for row in rows for text in re.findall(r"`(.*?)`", row)]
    defaults = DepthPruning().model_dump()
    for key in ("protect_first", "protect_last"):
        assert {key: defaults[key]} in written
    known = {**DepthPruning.model_fields, **WidthPruning.model_fields}
    assert {key for content in written for key in content} == set(known)
