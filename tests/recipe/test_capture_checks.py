"""Terms that a captured teacher does not serve are refused when the recipe is loaded."""

from typing import get_args

import pytest
from pydantic import TypeAdapter

from llmkd.build_objective import _build_divergence
from llmkd.errors import InputError
from llmkd.recipe import load
from llmkd.recipe.capture_checks import OF_SAMPLES, OF_TOP_K
from llmkd.recipe.losses import CrossEntropyTerm, PointwiseLoss

RECIPE = """\
name: captured
stages:
  teacher_data:
    kind: generate
    teacher: {model_name_or_path: some/teacher}
    data: {kind: task, num_examples: 60, split: unlabelled}
    CAPTURE
  student:
    kind: train
    student: {model_name_or_path: some/student}
    teacher: TEACHER
    data: {kind: store, path: stage:teacher_data}
    losses: LOSSES
"""
STORE = "{kind: store, path: stage:teacher_data}"
SERVER = "{kind: server, model_name_or_path: t, server: {kind: server, base_url: 'http://h:1'}}"


def problems(tmp_path, capture, losses, teacher=STORE):
    text = RECIPE.replace("CAPTURE", capture and f"capture: {capture}")
    text = text.replace("TEACHER", teacher).replace("LOSSES", losses)
    (tmp_path / "r.yaml").write_text(text)
    try:
        load(tmp_path / "r.yaml")
    except InputError as error:
        return error.problems
    return []


@pytest.mark.parametrize("term", get_args(PointwiseLoss), ids=lambda term: term.__name__)
def test_the_terms_listed_are_those_that_have_such_a_form(term):
    (kind,) = get_args(term.model_fields["kind"].annotation)
    divergence = _build_divergence(TypeAdapter(term).validate_python({"kind": kind}))
    if term is CrossEntropyTerm:
        return
    assert (term in OF_TOP_K) == (divergence.of_top_k is not None)
    assert (term in OF_SAMPLES) == (divergence.of_samples is not None)


@pytest.mark.parametrize(
    ("capture", "losses"),
    [
        ("{top_k: 4}", "[{kind: reverse_kl}, {kind: cross_entropy}]"),
        ("{kind: sampled, temperature: 2.0}", "[{kind: forward_kl, temperature: 2.0}]"),
    ],
)
def test_what_the_capture_serves_loads(tmp_path, capture, losses):
    assert problems(tmp_path, capture, losses) == []


@pytest.mark.parametrize(
    ("capture", "losses", "teacher", "message"),
    [
        ("{top_k: 4}", "[{kind: logit_mse}]", STORE, "r.yaml:13 stages.student.losses.0.kind: logit_mse"),
        ("{top_k: 4}", "[{kind: forward_kl, temperature: 2}]", STORE, "losses.0.temperature: 2, and"),
        ("{kind: sampled}", "[{kind: jsd}]", STORE, "the drawn tokens were kept; write kind: forward_kl,"),
        ("", "[{kind: forward_kl}]", STORE, "teacher.path: stage:teacher_data keeps the teacher's text"),
        ("", "[{kind: adaptive_kl}]", SERVER, "losses.0.kind: adaptive_kl needs more"),
    ],
)  # fmt: skip
def test_what_it_does_not_serve_is_named_with_what_to_write(
    tmp_path, capture, losses, teacher, message
):
    (found,) = problems(tmp_path, capture, losses, teacher)
    assert message in found


def test_a_store_is_no_stage_that_trains(tmp_path):
    found = problems(tmp_path, "", "[{kind: forward_kl}]", "{kind: store, path: stage:student}")
    assert any(
        "stage:student is this stage itself; write one of stage:teacher_data" in p for p in found
    )
