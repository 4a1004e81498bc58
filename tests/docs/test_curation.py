"""The recipes in docs/curation.md are ones that llmkd reads."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from llmkd.recipe import load
from llmkd.recipe.curation import CurateStage
from llmkd.recipe.curation_steps import CurationStep

PAGE = (Path(__file__).parents[2] / "docs" / "curation.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
STEPS = re.findall(
    r"\{kind: (?:length|repetition|duplicates|select|extract|verify)\b[^`\n]*\}", PAGE
)
MODEL = "{model_type: llama, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 1}"


@pytest.mark.parametrize("text", [text for text in STEPS if text.count("{") == 1])
def test_steps_in_the_text_are_steps(text):
    content = yaml.safe_load(text)
    if content != {"kind": "verify", "keep": "all"}:  # Where the grader goes without saying.
        TypeAdapter(CurationStep).validate_python(content)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.startswith("- {kind: ")])
def test_steps_by_themselves_are_steps(block):
    (content,) = yaml.safe_load(block)
    TypeAdapter(CurationStep).validate_python(content)


@pytest.mark.parametrize("block", [block for block in BLOCKS if "\n  steps:\n" in block])
def test_stages_are_stages(block):
    for stage in yaml.safe_load(block.replace("  ...\n", "")).values():
        if stage["kind"] == "curate":
            CurateStage.model_validate(stage)


def test_the_recipe_with_escalation_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (text,) = (block for block in BLOCKS if "escalated:" in block)
    (tmp_path / "texts.jsonl").write_text('{"text": "a", "labels": "billing, weather"}\n')
    student = f"student: {{kind: scratch, config: {MODEL}, tokenizer_name_or_path: org/name}}"
    rest = f"    {student}\n    losses: [{{kind: cross_entropy}}]\n"
    path = tmp_path / "annotate.yaml"
    path.write_text(
        "name: annotate\n"
        + text.replace("    ...\n", rest).replace("texts.jsonl", f"{tmp_path}/texts.jsonl")
    )
    loaded = load(path)
    assert list(loaded.stages)[-1] == "classifier"
