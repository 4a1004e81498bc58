"""lm-eval's own vLLM class on a package in vLLM's place, which writes by rule and counts its starts."""

import json
import sys
from importlib import import_module

import pytest

from llmkd.evaluation.evaluate import evaluate
from llmkd.evaluation.harness import model as model_module
from llmkd.recipe.evaluation import Suite
from llmkd.recipe.teacher_data import VLLMEngine
from tests.evaluation.harness.conftest import WRITTEN

FILES = {
    "vllm-0.19.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: vllm\nVersion: 0.19.0\n",
    "vllm/__init__.py": """\
from types import SimpleNamespace as Object

events, fails = [], []
SamplingParams = Object

def TokensPrompt(prompt_token_ids):
    return prompt_token_ids

class LLM:
    def __init__(self, **settings):
        events.append("start " + settings["model"].rpartition("/")[2])
        shutdown = lambda: events.append("shutdown")
        self.llm_engine = Object(engine_core=Object(shutdown=shutdown))

    def generate(self, prompts, sampling_params, **_):
        if fails and len(events) > fails[0]:
            raise RuntimeError("killed")
        events.append(len(prompts))
        return [Object(outputs=[Object(text=str(sum(ids)))]) for ids in prompts]
""",
    "vllm/platforms.py": """\
from types import SimpleNamespace

current_platform = SimpleNamespace(is_cpu=lambda: False)
""",
    "vllm/distributed.py": "def cleanup_dist_env_and_memory(): pass\n",
    "vllm/lora/__init__.py": "",
    "vllm/lora/request.py": "LoRARequest = None\n",
    "vllm/renderers/__init__.py": "",
    "vllm/renderers/hf.py": "def resolve_chat_template(**_): return None\n",
    "vllm/tokenizers.py": """\
from transformers import AutoTokenizer

def get_tokenizer(path, **_):
    return AutoTokenizer.from_pretrained(path)
""",
    "vllm/engine/__init__.py": "",
    "vllm/engine/arg_utils.py": """\
from types import SimpleNamespace

class EngineArgs(SimpleNamespace):
    def create_model_config(self):
        return SimpleNamespace(max_model_len=self.max_model_len or 64)
""",
}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The package, imported once, as lm-eval registers what it imports."""
    site = tmp_path_factory.mktemp("site")
    for name, text in FILES.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    with pytest.MonkeyPatch.context() as patched:
        for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
            patched.delitem(sys.modules, name)
        patched.syspath_prepend(site)
        yield import_module("vllm")
        for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
            del sys.modules[name]


@pytest.fixture
def vllm(package, monkeypatch):
    """`events` are its starts, sizes of what is asked, and ends; after so many as `fails` it fails."""
    monkeypatch.setattr(model_module, "REQUESTS_AT_ONCE", 10)
    package.events.clear()
    package.fails.clear()
    return package


@pytest.fixture
def measured(make_task, subject, tmp_path):
    """Measures tasks of these definitions, keeping answers."""

    def measure(*definitions, num_models=1, folder="kept"):
        tasks = [
            make_task(definition, name=f"task-{number}").model_dump(mode="json")
            for number, definition in enumerate(definitions)
        ]
        suite = Suite.model_validate({"name": "mine", "tasks": tasks})
        path = subject.source.model_name_or_path
        return evaluate(
            [(f"m{number}", path) for number in range(num_models)],
            suite,
            batch_size=5,
            seed=3,
            progress=lambda *_: None,
            folder=tmp_path / folder,
            engine=VLLMEngine(kind="vllm"),
        )

    return measure


def test_one_engine_serves_all_tasks_of_a_model_and_is_closed_after_them(measured, vllm):
    found = measured(WRITTEN, WRITTEN, num_models=2)
    assert not found.failures
    of_a_model = ["start model", 10, 10, 4, 10, 10, 4, "shutdown"]
    assert vllm.events == 2 * of_a_model
    # All is there: none is started, and the numbers are the same.
    assert measured(WRITTEN, WRITTEN, num_models=2).records == found.records
    assert vllm.events == 2 * of_a_model


def test_what_was_written_before_a_failure_is_kept(measured, vllm, tmp_path):
    whole = measured(WRITTEN, folder="whole")
    vllm.events.clear()
    # The third chunk fails; the broken engine is not used again.
    vllm.fails.append(2)
    (failure,) = measured(WRITTEN).failures
    assert "killed" in failure.message
    assert vllm.events == ["start model", 10, 10, "shutdown"]
    (path,) = (tmp_path / "kept").rglob("answers.jsonl")
    assert len(json.loads(path.read_text().splitlines()[1])["requests"]) == 10
    vllm.events.clear()
    vllm.fails.clear()
    found = measured(WRITTEN)
    # The second chunk is kept when the third is asked for.
    assert vllm.events == ["start model", 4, "shutdown"]
    assert found.records == whole.records
    assert found.details == whole.details


def test_drawn_answers_have_an_engine_of_their_own(measured, vllm):
    settings = {**WRITTEN["generation_kwargs"], "do_sample": True, "temperature": 1.0}
    drawn = {**WRITTEN, "generation_kwargs": settings}
    assert not measured(WRITTEN, drawn).failures
    of_a_task = ["start model", 10, 10, 4, "shutdown"]
    assert vllm.events == 2 * of_a_task
