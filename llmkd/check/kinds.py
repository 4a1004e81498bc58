"""Models of the wrong kind for a stage: no classifier, or one, or begun by another token."""

from collections.abc import Mapping
from typing import Any, Literal

from llmkd.check.config_fields import with_defaults
from llmkd.check.facts import NotKnownError
from llmkd.check.models import Model
from llmkd.models.agreement import (
    NO_CLASSIFIER,
    NO_LANGUAGE_MODEL,
    different_kinds,
    different_starts,
    no_start,
)
from llmkd.recipe.data import Classification
from llmkd.recipe.places import Problem
from llmkd.recipe.schema import TrainStage
from llmkd.recipe.yaml_places import Key


def kind_problems(
    name: str, stage: TrainStage, student: Model, teacher: Model | None
) -> list[Problem]:
    """A student or a teacher that the stage cannot take, or that read different batches."""
    key, wants = ("stages", name), isinstance(stage.data, Classification)
    # A classifier's student gets a head.
    problems = [] if wants else head_problem((*key, "student"), student, is_classifier=False)
    if teacher is not None:
        problems += head_problem((*key, "teacher"), teacher, is_classifier=wants)
    if not wants and not problems:
        problems += _seq2seq_problems(key, student, teacher)
    return problems


def head_problem(key: Key, model: Model, *, is_classifier: bool) -> list[Problem]:
    """A model with a head of the other kind, as far as its configuration says."""
    if model.is_classifier in (None, is_classifier):
        return []
    what = NO_CLASSIFIER if is_classifier else NO_LANGUAGE_MODEL
    return [Problem(key, f"{model.name}: {what}")]


def _seq2seq_problems(key: Key, student: Model, teacher: Model | None) -> list[Problem]:
    models = {"student": student} | ({} if teacher is None else {"teacher": teacher})
    starts = {role: _start_of(model) for role, model in models.items()}
    problems = [
        Problem((*key, role), f"{role}: {no_start(str(models[role].config.get('model_type')))}")
        for role, start in starts.items()
        if start == "none"
    ]
    if teacher is None or student.is_seq2seq is None or teacher.is_seq2seq is None or problems:
        return problems
    problem = different_kinds(student.is_seq2seq, teacher.is_seq2seq)
    if not problem and None not in starts.values():
        problem = different_starts(*starts.values())
    return [Problem((*key, "teacher"), problem)] if problem else []


def _start_of(model: Model) -> int | Literal["none"] | None:
    """The token that its decoder begins with; None of a causal model, or where it is not known."""
    if not model.is_seq2seq:
        return None
    if model.name == "from scratch":
        # Not written, it follows from the tokenizer's special tokens.
        return model.config.get("decoder_start_token_id")
    return _written_start(model.config)


def _written_start(config: Mapping[str, Any]) -> int | Literal["none"] | None:
    try:
        start = with_defaults(str(config.get("model_type")), config).get("decoder_start_token_id")
    except (NotKnownError, OSError, ValueError):
        return config.get("decoder_start_token_id")
    return "none" if start is None else start
