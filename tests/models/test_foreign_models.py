"""Models from strangers: code in their folders, and pickled weights that hold more than tensors."""

import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig

from llmkd.errors import InputError
from llmkd.models.adapter_configs import CONFIG
from llmkd.models.classifiers import load_classifier, load_student_classifier
from llmkd.models.load import config_of, load_model, tokenizer_of
from llmkd.models.refusals import ADAPTER, kernel_named, not_loadable, refuse_pickles
from llmkd.recipe.models import PretrainedModel
from llmkd.teacher_data.transformers_engine import load_for_inference
from llmkd.teacher_data.vllm_engine import loading_rules

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
Path(r"{marker}").write_text("ran")
class ForeignConfig(LlamaConfig):
    model_type = "foreign"
class ForeignModel(LlamaForCausalLM):
    config_class = ForeignConfig
class ForeignTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def marker(tmp_path):
    """What the code of a stranger would write."""
    return tmp_path / "ran"


@pytest.fixture
def folder(tiny_llama, tokenizer, tmp_path):
    """A plain model folder."""
    tiny_llama(tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def with_code(folder, marker, tmp_path, monkeypatch):
    """The same folder, as a model of an architecture of its own."""
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "code")
    )
    (folder / "foreign.py").write_text(CODE.format(marker=marker))
    classes = {"AutoConfig": "ForeignConfig", "AutoModelForCausalLM": "ForeignModel"}
    changed(folder / "config.json", model_type="foreign", auto_map=named(classes))
    tokenizer = {"AutoTokenizer": ["foreign.ForeignTokenizer", "foreign.ForeignTokenizer"]}
    changed(
        folder / "tokenizer_config.json", tokenizer_class="ForeignTokenizer", auto_map=tokenizer
    )
    return folder


def named(classes):
    return {auto: f"foreign.{name}" for auto, name in classes.items()}


def changed(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def source(folder, **fields):
    return PretrainedModel(model_name_or_path=str(folder), **fields)


class Malicious:
    """Pickled, it is a call that makes a folder when it is read."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def pickled(folder, *, hostile_at=None):
    """Has weights in pytorch_model.bin alone, with a call among them where one is wanted."""
    weights = load_model(source(folder)).state_dict()
    (folder / "model.safetensors").unlink()
    extra = {} if hostile_at is None else {"extra": Malicious(hostile_at)}
    torch.save(weights | extra, folder / "pytorch_model.bin")
    return weights


@pytest.mark.parametrize("load", [config_of, tokenizer_of, load_model, load_for_inference])
def test_code_of_a_model_is_not_run_unless_asked(with_code, marker, monkeypatch, load):
    # A prompt on stdin would be transformers' way.
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("waits for an answer"))
    with pytest.raises(InputError, match="trust_remote_code: true where a recipe names the model"):
        load(source(with_code))
    assert not marker.exists()


def test_code_that_is_asked_for_makes_config_tokenizer_and_weights(with_code, marker):
    model, tokenizer = load_for_inference(source(with_code, trust_remote_code=True))
    assert type(model).__name__ == "ForeignModel"
    assert type(model.config).__name__ == "ForeignConfig"
    assert type(tokenizer).__name__ == "ForeignTokenizer"
    assert marker.exists()


def test_code_beside_a_known_architecture_is_left_alone(with_code, marker):
    changed(with_code / "config.json", model_type="llama")
    assert type(load_model(source(with_code))).__name__ == "LlamaForCausalLM"
    assert not marker.exists()


def test_code_that_generates_in_a_models_place_is_not_run(folder, marker):
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(CODE.format(marker=marker))
    load_model(source(folder))
    assert not marker.exists()


KERNEL = "kernels-community/flash-attn2@1a2b"


@pytest.mark.parametrize("load", [config_of, load_model, load_for_inference])
def test_a_kernel_of_the_hub_that_a_configuration_names_is_refused(folder, load, monkeypatch):
    changed(folder / "config.json", attn_implementation=KERNEL)
    asked = []
    monkeypatch.setattr(
        "transformers.integrations.hub_kernels.get_kernel",
        lambda name, **_: asked.append(name) or SimpleNamespace(flash_attn_varlen_func=print),
    )
    with pytest.raises(InputError, match=rf"computed by {KERNEL}.*attn_implementation: sdpa"):
        load(source(folder))
    load(source(folder, attn_implementation="sdpa"))
    assert asked == []


@pytest.mark.parametrize("named", [KERNEL, {"text_config": KERNEL}])
def test_a_kernel_is_found_in_a_part_of_a_configuration_too(named):
    assert kernel_named(AutoConfig.for_model("gemma3", attn_implementation=named)) == KERNEL
    assert kernel_named(AutoConfig.for_model("gemma3", attn_implementation="sdpa")) is None


@pytest.mark.parametrize(
    "load",
    [
        load_model,
        load_classifier,
        lambda source: load_student_classifier(source, ["a"]),
        loading_rules,
    ],
)
def test_pickled_weights_are_refused_unless_asked_for(folder, load):
    pickled(folder)
    with pytest.raises(InputError, match=r"not in safetensors files.*write use_safetensors: false"):
        load(source(folder))


def test_pickled_weights_that_are_asked_for_are_those_that_were_saved(folder):
    expected = pickled(folder)
    found = load_model(source(folder, use_safetensors=False)).state_dict()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=0)


@pytest.mark.parametrize("use_safetensors", [True, False])
def test_a_call_among_pickled_weights_is_never_made(folder, marker, use_safetensors):
    pickled(folder, hostile_at=marker)
    reason = "not in safetensors files" if use_safetensors else "more than tensors"
    with pytest.raises(InputError, match=reason):
        load_model(source(folder, use_safetensors=use_safetensors))
    assert not marker.exists()
    # It is one: Python's own pickle makes it.
    pickle.loads(pickle.dumps(Malicious(marker)))
    assert marker.exists()


@pytest.fixture
def pickled_adapter(folder, lora, tmp_path):
    """An adapter in adapter_model.bin alone."""
    lora(load_model(source(folder)), tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    return tmp_path / "adapter"


@pytest.mark.parametrize("load", [load_model, loading_rules])
def test_a_pickled_adapter_is_refused_unless_asked_for(folder, pickled_adapter, load):
    named = {"adapter_name_or_path": str(pickled_adapter)}
    with pytest.raises(InputError, match=r"adapter is not in safetensors files.*use_safetensors"):
        load(source(folder, **named))
    load(source(folder, **named, use_safetensors=False))


def test_a_call_among_an_adapters_weights_is_never_made(folder, pickled_adapter, marker):
    weights = pickled_adapter / "adapter_model.bin"
    torch.save(torch.load(weights) | {"extra": Malicious(marker)}, weights)
    named = {"adapter_name_or_path": str(pickled_adapter), "use_safetensors": False}
    with pytest.raises(InputError):
        load_model(source(folder, **named))
    assert not marker.exists()


def test_an_adapter_in_the_models_own_folder_counts_as_one(folder, pickled_adapter):
    for file in pickled_adapter.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputError, match="adapter is not in safetensors files"):
        load_model(source(folder))


def test_of_a_hub_repository_the_revision_that_is_loaded_is_looked_at(tmp_path, monkeypatch):
    """In the old one its adapter is pickled, in the new one, main, it is not."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--m"
    files = {"old": [CONFIG, "adapter_model.bin"], "main": [CONFIG, ADAPTER]}
    for number, (revision, names) in enumerate(files.items(), start=1):
        commit = str(number) * 40
        for name in names:
            path = repository / "snapshots" / commit / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
    refuse_pickles(source("someone/m"))
    for revision in ("old", "1" * 40):
        with pytest.raises(InputError, match="adapter is not in safetensors files"):
            refuse_pickles(source("someone/m", revision=revision))
    # Of an adapter that is named beside a model it is the main branch, whatever the model's is.
    refuse_pickles(source(tmp_path, revision="old", adapter_name_or_path="someone/m"))


def test_vllm_is_told_the_same(folder):
    assert loading_rules(source(folder)) == {
        "trust_remote_code": False,
        "load_format": "safetensors",
    }
    asked = source(folder, trust_remote_code=True, use_safetensors=False)
    assert loading_rules(asked) == {"trust_remote_code": True, "load_format": "auto"}


def test_pickled_weights_of_the_hub_are_told_by_what_transformers_says_of_them():
    said = "and thus cannot be loaded with `safetensors`"
    assert said in Path(transformers.modeling_utils.__file__).read_text(encoding="utf-8")
    error = not_loadable("model", "someone/old", OSError(f"someone/old has none {said}."))
    assert "write use_safetensors: false" in str(error)
