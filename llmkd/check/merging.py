"""What is known of a merge stage before it runs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from llmkd.check.architectures import Shape
from llmkd.check.facts import Fact, StageFacts, known, value_of
from llmkd.check.memory import RUNTIME_BYTES
from llmkd.check.models import Model
from llmkd.check.vocabulary import Tokenizer
from llmkd.merging.agreement import ALIKE, different_tokens
from llmkd.recipe.merging import MergeStage
from llmkd.recipe.places import Problem

if TYPE_CHECKING:
    from llmkd.check.stages import Checker


def merge_facts(checker: "Checker", name: str, stage: MergeStage) -> StageFacts:
    """Parameters, memory and disk of a merge stage, and what keeps its models apart."""
    found = StageFacts(stage.kind)
    models = {key: checker.models.merged_from(source) for key, source in stage.inputs.items()}
    first = next(iter(models.values()))
    found.facts["parameters"] = first.parameters
    found.facts["memory"] = known(lambda: _memory(first, len(models)))
    found.facts["disk"] = known(
        lambda: Fact(
            value_of(first.parameters) * first.bytes_per_parameter, "estimate", unit="bytes"
        )
    )
    for key, model in list(models.items())[1:]:
        if problem := _problem(first, model):
            place = (int(part) if part.isdecimal() else part for part in key.split("."))
            found.problems.append(Problem(("stages", name, *place), f"{model.name} {problem}"))
    checker.judge(found, checker.memory(use_cpu=True), stage)
    return found


def _problem(first: Model, other: Model) -> str | None:
    if field := _differing(first.config, other.config):
        return (
            f"is of another architecture than {first.name}: {field} is {other.config[field]} and "
            f"{first.config[field]}; merge models of one shape"
        )
    ours, theirs = first.parameters.value, other.parameters.value
    if ours is not None and theirs is not None and ours != theirs:
        return f"has {theirs:,} parameters, and {first.name} {ours:,}; merge models of one shape"
    if isinstance(first.tokenizer, Tokenizer) and isinstance(other.tokenizer, Tokenizer):
        return different_tokens(first.tokenizer.vocabulary, other.tokenizer.vocabulary)
    return None


def _differing(ours: Mapping[str, object], theirs: Mapping[str, object]) -> str | None:
    """The first field that both write and that must be the same."""
    both = (name for name in ALIKE if name in ours and name in theirs)
    return next((name for name in both if ours[name] != theirs[name]), None)


def _memory(first: Model, num_models: int) -> Fact:
    """One tensor of each model in float32, their sum, and what is written of it."""
    if not isinstance(first.shape, Shape):
        return Fact(None, "not known", first.shape)
    shape = first.shape
    largest = shape.hidden * max(shape.vocab_size, shape.intermediate)
    parts = {"tensors": 4 * largest * (num_models + 2), "runtime": RUNTIME_BYTES}
    return Fact(sum(parts.values()), "estimate", "the largest tensor at work", "bytes", parts)
