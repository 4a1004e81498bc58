"""The README.md of a model folder: where the model comes from, and what was measured."""

from collections.abc import Mapping
from typing import assert_never

import yaml

from llmkd.evaluation.results import Record
from llmkd.recipe.base import RecipePart
from llmkd.recipe.data import Classification, is_regression
from llmkd.recipe.kdrl import KDRLStage
from llmkd.recipe.models import InProcessTeacher, ServerTeacher, StoreTeacher
from llmkd.recipe.pruning import PruneStage
from llmkd.recipe.rollout_teachers import named_teachers
from llmkd.recipe.schema import TrainStage
from llmkd.teacher_data.places import open_store

RESULTS_HEADING = "## Results"


def model_card(stage: TrainStage, name: str) -> str:
    """A model card in the hub's format, without results: they come after evaluation.

    Args:
        stage: What made the model.
        name: The stage's name.
    """
    teacher = teacher_name(stage)
    is_classifier = isinstance(stage.data, Classification)
    what = "sequence classifier" if is_classifier else "language model"
    if is_regression(stage.data):
        what = "sequence regression model"
    losses = ", ".join(loss.name or loss.kind for loss in stage.losses)
    origin = f"distilled from `{teacher}`" if teacher else "trained without a teacher's logits"
    return card(stage, name, f"A {what}, {origin}, made with llmkd. Objective: {losses}.")


def kdrl_card(stage: KDRLStage, name: str) -> str:
    """As `model_card`, of a model trained on its own rollouts."""
    rewards = ", ".join(reward.name or reward.kind for reward in stage.reward_funcs)
    named = {} if stage.teacher is None else named_teachers(stage.teacher)
    teachers = ", ".join(f"`{teacher.model_name_or_path}`" for teacher in named.values())
    taught = f" and distilled from {teachers}" if teachers else ""
    return card(
        stage,
        name,
        f"A language model, trained on its own responses{taught} with llmkd. Objective: "
        f"{stage.objective.kind}. Rewards: {rewards}.",
    )


def pruned_card(
    stage: PruneStage, name: str, before: Mapping[str, float], after: Mapping[str, float]
) -> str:
    """As `model_card`, of a pruned model.

    Args:
        stage: What made the model.
        name: The stage's name.
        before: Sizes of the whole model, as in `pruning.json`.
        after: Sizes of the pruned one.
    """
    lines = [f"| {size} | {before[size]:,.0f} | {after[size]:,.0f} |\n" for size in before]
    return card(
        stage,
        name,
        f"A language model, pruned from `{stage.model.name}` with llmkd, and not trained since.\n\n"
        "| | before | after |\n|---|---|---|\n" + "".join(lines).rstrip(),
    )


def card(stage: RecipePart, name: str, content: str) -> str:
    """A model card in the hub's format.

    Args:
        stage: What made the model.
        name: The stage's name.
        content: What the model is, and what it was made from.
    """
    front: dict[str, object] = {"library_name": "transformers", "tags": ["llmkd"]}
    part = yaml.safe_dump(stage.model_dump(mode="json"), sort_keys=False)
    return (
        f"---\n{yaml.safe_dump(front)}---\n\n# {name}\n\n{content}\n\n"
        f"## Recipe\n\n```yaml\n{part}```\n"
    )


def teacher_name(stage: TrainStage) -> str | None:
    """What a reader may call the stage's teacher."""
    match stage.teacher:
        case None:
            return None
        case InProcessTeacher(name=name) | ServerTeacher(model_name_or_path=name):
            return name
        case StoreTeacher(path=path):
            return open_store(path).settings.teacher
        case unknown:
            assert_never(unknown)


def with_results(card: str, records: list[Record]) -> str:
    """The card with a table of what was measured, in place of one that it may have."""
    lines = [
        f"| {r.task} | {r.metric} | {r.value:.4g} | {r.ci_low:.4g} to {r.ci_high:.4g} "
        f"| {r.num_examples} |\n"
        for r in records
    ]
    return (
        f"{card.split(RESULTS_HEADING)[0].rstrip()}\n\n{RESULTS_HEADING}\n\n"
        "| task | metric | value | 95 % interval | examples |\n|---|---|---|---|---|\n"
        + "".join(lines)
    )
