"""What a check finds out of a teacher's adapter."""

import json
import re

import peft
import pytest

from llmkd.errors import InputError

SCORE = """\
name: scored
kind: score
teacher: {model_name_or_path: FOLDER/teacher, adapter_name_or_path: FOLDER/adapter}
data: {dataset_name: FOLDER/data.jsonl}
engine: {kind: ENGINE}
"""


@pytest.fixture
def scored(local, checked):
    """Checks a score stage of the teacher with the adapter."""

    def check(*overrides, engine="transformers"):
        text = SCORE.replace("FOLDER", str(local)).replace("ENGINE", engine)
        (local / "scored.yaml").write_text(text)
        return checked(local / "scored.yaml", *overrides)

    return check


@pytest.fixture
def adapter(local, lora, tiny_llama, tokenizer):
    """Makes the adapter, of a model like the teacher but for a part of its shape."""

    def make(settings=(), **shape):
        lora(tiny_llama(tokenizer, **shape), local / "adapter", **dict(settings))
        return local / "adapter"

    return make


def refused(scored, engine="transformers"):
    with pytest.raises(InputError) as caught:
        scored(engine=engine)
    (problem,) = caught.value.problems
    assert "teacher.adapter_name_or_path: " in problem
    return problem


def test_rank_and_parameters_are_counted(scored, adapter, tiny_llama, tokenizer, checked, local):
    adapter({"r": 3, "target_modules": ["q_proj", "down_proj"]})
    # Two layers of q_proj (32 to 32) and down_proj (64 to 32), each with 3 rows and 3 columns.
    found = scored().stages["score"].facts["teacher adapter"]
    assert (found.value, found.how) == (2 * 3 * (32 + 32 + 64 + 32), "parameters of rank 3")
    override = f"teacher.adapter_name_or_path={local / 'adapter'}"
    beside = checked(local / "local.yaml", override).stages["train"].facts
    assert beside["teacher adapter"] == found


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"hidden_size": 16}, "of 16 inputs and"),
        ({"intermediate_size": 96}, "of 32 inputs and 96 outputs, and .*has one of 32 to 64"),
        ({"num_hidden_layers": 3}, "layers.2.* has no such layer"),
    ],
)
def test_an_adapter_of_another_model_is_refused(scored, adapter, shape, message):
    adapter({"target_modules": ["q_proj", "gate_proj"]}, **shape)
    found = refused(scored)
    assert "is of another model" in found
    assert re.search(message, found)


def test_what_is_no_adapter_is_refused(scored, local):
    (local / "adapter").mkdir()
    assert "has no adapter_config.json; write a folder that peft's" in refused(scored)
    (local / "adapter" / "config.json").write_text("{}")
    assert "is a whole model; write it as model_name_or_path" in refused(scored)


def test_another_kind_of_adapter_is_refused(scored, local, tiny_llama, tokenizer):
    settings = peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[])
    peft.get_peft_model(tiny_llama(tokenizer), settings).save_pretrained(local / "adapter")
    assert "is an adapter of type IA3; write one of type LORA" in refused(scored)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern: {'q_proj': 2}"),
        ({"use_dora": True}, "use_dora: True"),
        ({"bias": "all"}, "bias: all"),
        ({"r": 513}, "r: 513"),
        ({"init_lora_weights": "olora"}, "init_lora_weights: olora"),
    ],
)
def test_what_vllm_does_not_apply_is_refused_for_vllm_alone(scored, adapter, settings, message):
    path = adapter() / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    assert f"is more than vLLM applies ({message}); write engine" in refused(scored, "vllm")
    scored()


def test_an_adapter_that_names_another_model_is_warned_of(scored, adapter, monkeypatch, local):
    path = adapter() / "adapter_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"base_model_name_or_path": "org/base"}))
    assert scored().warnings == []
    monkeypatch.setenv("HF_HUB_CACHE", str(local))
    names = scored("teacher.model_name_or_path=org/instruct").warnings
    assert any("was trained on org/base, and the teacher is org/instruct" in text for text in names)


def test_an_adapter_of_the_hub_is_not_known_and_no_problem(scored, adapter):
    found = scored("teacher.adapter_name_or_path=org/adapter").stages["score"]
    assert "org/adapter is not on this machine" in found.facts["teacher adapter"].how
