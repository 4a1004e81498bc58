"""The estimate of an evaluate stage's memory, held against what the code loads and computes."""

import json
import weakref
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM
from yaml import safe_load

from llmkd.check import evaluation_memory
from llmkd.check.memory import RUNTIME_BYTES
from llmkd.evaluation import subject as subject_module
from llmkd.evaluation.agreement import _Comparison
from llmkd.evaluation.budgets import LOGITS_AT_ONCE
from llmkd.evaluation.evaluate import evaluate
from llmkd.evaluation.perplexity import row_losses
from llmkd.evaluation.reliability import Reliability
from llmkd.models.load import load_model
from llmkd.recipe.evaluation import Suite
from llmkd.recipe.load import load
from llmkd.recipe.models import PretrainedModel

TEXT = "{dataset_name: DATA, max_length: 40}"
TASKS = {
    "perplexity": f"{{kind: perplexity, name: text, data: {TEXT}}}",
    "agreement": f"{{kind: agreement, name: near, data: {TEXT}}}",
    "short": "{kind: agreement, name: short, data: {dataset_name: DATA, max_length: 2}}",
    "draft": "{kind: draft, name: draft, max_completion_length: 4, data: {dataset_name: DATA}}",
    "cost": "{kind: cost, name: cost, batch_size: 3, prompt_length: 8, completion_length: 4}",
    "harness": "{kind: lm_eval, name: copa, data: {dataset_name: DATA}}",
    "questions": "{kind: reasoning, name: sums, grader: number, data: {dataset_name: QUESTIONS}}",
}


@pytest.fixture
def recipe(local):
    """Writes a recipe that measures some models, `student` or `teacher`, on some tasks."""
    rows = [{"text": f"{i}+1={i + 1}"} for i in range(10)]
    (local / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (local / "questions.jsonl").write_text('{"question": "1+2=", "answer": 3}\n')

    def write(models, tasks, more="teacher: {model_name_or_path: TEACHER}"):
        listed = ", ".join(str(local / name) for name in models)
        suite = ", ".join(TASKS[name] for name in tasks)
        text = (
            f"name: e\nkind: evaluate\nmodels: [{listed}]\nsuite: {{name: s, tasks: [{suite}]}}\n"
        )
        text = (text + more).replace("TEACHER", str(local / "teacher"))
        text = text.replace("DATA", str(local / "texts.jsonl"))
        path = local / "e.yaml"
        path.write_text(text.replace("QUESTIONS", str(local / "questions.jsonl")))
        return path

    return write


@pytest.fixture
def memory(recipe, checked):
    """The estimate for some models and tasks."""

    def estimate(*args, **more):
        return checked(recipe(*args, **more)).stages["evaluate"].facts["memory"]

    return estimate


@pytest.fixture
def loaded_bytes(monkeypatch):
    """The most bytes of weights that stood at the same time."""
    standing, most = Counter(), [0]

    def noted(source, load, load_for_inference=subject_module.load_for_inference):
        model, tokenizer = load_for_inference(source, load)
        key = object()
        standing[key] = sum(p.nbytes for p in model.parameters())
        weakref.finalize(model, standing.pop, key)
        most[0] = max(most[0], standing.total())
        return model, tokenizer

    monkeypatch.setattr(subject_module, "load_for_inference", noted)
    return most


@pytest.mark.parametrize(
    ("models", "tasks", "dtype", "together"),
    [
        (["student", "teacher"], ["perplexity"], "float32", {"teacher": 4}),
        (["student", "teacher"], ["agreement"], "float32", {"student": 4, "teacher": 4}),
        (["teacher"], ["perplexity", "agreement"], "float32", {"teacher": 4}),
        (["teacher"], ["agreement"], "bfloat16", {"teacher": 6}),
        # The teacher, which was measured first, waits for the student's turn.
        (["teacher", "student"], ["draft"], "float32", {"student": 4, "teacher": 4}),
        (["student", "teacher"], ["draft", "perplexity"], "bfloat16", {"teacher": 6}),
    ],
)
def test_the_weights_are_those_that_stand_together(
    recipe, memory, loaded_bytes, local, monkeypatch, models, tasks, dtype, together
):
    more = f"teacher: {{model_name_or_path: {local}/teacher, dtype: {dtype}}}"
    without_work = evaluation_memory._weights
    monkeypatch.setattr(evaluation_memory, "_work", lambda task, model, *_: without_work(model))

    found = memory(models, tasks, more)

    sizes = {
        name: load_model(PretrainedModel(model_name_or_path=str(local / name))).num_parameters()
        for name in together
    }
    wanted = sum(width * sizes[name] for name, width in together.items())
    assert found.value - RUNTIME_BYTES == wanted
    (stage,) = load(recipe(models, tasks, more)).stages.values()
    labels = [(f"{number}", path) for number, path in enumerate(stage.models)]
    settings = {"batch_size": 4, "seed": 0, "progress": lambda *_: None}
    evaluate(labels, stage.suite, teacher=("teacher", stage.teacher), **settings)
    assert loaded_bytes == [wanted]


class Peak(TorchDispatchMode):
    """The most bytes of tensors that were made in the block and stood at the same time."""

    def __init__(self):
        super().__init__()
        self.bytes, self.standing, self.most = {}, Counter(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.standing[storage._cdata] += 1
                self.bytes[storage._cdata] = storage.nbytes()
                weakref.finalize(tensor, self.gone, storage._cdata)
        self.most = max(self.most, sum(self.bytes.values()))
        return out

    def gone(self, storage):
        self.standing[storage] -= 1
        if not self.standing[storage]:
            del self.bytes[storage]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("task", ["perplexity", "agreement"])
def test_logits_are_those_that_the_scoring_computes(task, dtype):
    # The vocabulary is by far the largest of all, so that little else counts.
    rows, length, vocab_size = 6, 50, 4000
    config = AutoConfig.for_model(
        "llama", vocab_size=vocab_size, hidden_size=8, intermediate_size=8,
        num_hidden_layers=1, num_attention_heads=1,
    )  # fmt: skip
    student, teacher = (AutoModelForCausalLM.from_config(config).to(dtype).eval() for _ in range(2))
    ids = torch.randint(vocab_size, (rows, length))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "target_ids": ids}
    with Peak() as peak:
        if task == "agreement":
            _Comparison(student, teacher, vocab_size, 5)(batch)
        else:
            row_losses(student, batch, Reliability())
    read = Suite.model_validate(safe_load(f"{{name: s, tasks: [{TASKS[task]}]}}")).tasks[0]
    width = dtype.itemsize
    found = evaluation_memory._logits(read, width, vocab_size, rows, length)
    found *= 1 + (task == "agreement")
    # An upper bound: one copy more than there is, in one of the two types.
    assert 0.99 * peak.most < found < 1.55 * peak.most
    # A row alone may have more logits than a batch; more rows do not.
    most = evaluation_memory._logits(read, width, vocab_size, 10**6, length)
    assert most == evaluation_memory._logits(read, width, vocab_size, 10**9, length)
    assert 1 < most / (LOGITS_AT_ONCE * width) < 1.6


def test_parts_by_hand(memory, local):
    student, teacher = (
        4 * load_model(PretrainedModel(model_name_or_path=str(local / name))).num_parameters()
        for name in ("student", "teacher")
    )
    of_cost = memory(["student"], ["cost"], "").parts
    # Its own process and the one that waits for it; 3 x (8 + 4) positions of 18 tokens.
    assert of_cost["measuring"] == of_cost["runtime"] == RUNTIME_BYTES
    assert of_cost["logits"] == 3 * 12 * 18 * 4
    assert of_cost["weights"] == student
    # The teacher's 4 x 40 positions of 18 tokens, and 4.125 copies; no cache.
    near = memory(
        ["student"], ["agreement"], "batch_size: 4\nteacher: {model_name_or_path: TEACHER}"
    )
    assert "cache" not in near.parts
    assert near.parts["logits"] == 4 * 40 * 18 * (4 + 4 * 4.125)
    activations = 4 * 40 * 4 * (4 * 32 + 3 * 64)
    assert near.parts["teacher"] == teacher + near.parts["logits"] + activations
    assert near.value == sum(near.parts.values())


def test_a_task_of_unknown_length_counts_with_its_weights(memory, local):
    teacher = load_model(PretrainedModel(model_name_or_path=f"{local}/teacher")).num_parameters()
    alone = memory(["student", "teacher"], ["harness"], "")
    assert alone.parts == {"weights": 4 * teacher, "runtime": RUNTIME_BYTES}
    assert alone.exactness == "at least"
    assert "the prompts of copa are made by lm-eval" in alone.how
    # What is known of other tasks is counted beside it.
    both = memory(["student"], ["harness", "agreement"])
    assert both.exactness == "at least"
    assert both.value == memory(["student"], ["agreement"]).value


def test_the_teacher_is_counted_where_it_waits_and_not_after_it_was_given_back(memory):
    waiting = memory(["student"], ["short", "perplexity"])
    teacher = memory(["teacher"], ["perplexity"], "").parts["weights"]
    assert waiting.parts["teacher"] == teacher
    more = "teacher: {model_name_or_path: TEACHER}\nengine: {kind: vllm}"
    assert "teacher" not in memory(["student"], ["short", "questions", "perplexity"], more).parts


def test_what_an_engine_takes_is_its_own(memory):
    engine = "engine: {kind: vllm}"
    alone = memory(["student"], ["questions"], engine)
    assert (alone.value, alone.how) == (
        None,
        "vLLM takes gpu_memory_utilization of the accelerator",
    )
    beside = memory(["student"], ["questions", "perplexity"], engine)
    assert beside.exactness == "at least"
    assert beside.value == memory(["student"], ["perplexity"], "").value
    small = memory(["student"], ["questions"], "engine: {kind: transformers, batch_size: 2}")
    assert small.value < memory(["student"], ["questions"], "").value
