"""Rationales and the losses on them: what no field can know by itself."""

from collections.abc import Iterator

from llmkd.recipe.data import (
    AdditionTask,
    Classification,
    DatasetRows,
    DatasetSource,
    Mixture,
    NamedIntentTask,
    StoreRows,
    TrainedAddition,
)
from llmkd.recipe.models import StoreTeacher
from llmkd.recipe.places import Problem
from llmkd.recipe.rationale import Rationale, StepByStep
from llmkd.recipe.schema import TrainStage
from llmkd.recipe.yaml_places import Key


def rationale_problems(stage: TrainStage, key: Key) -> Iterator[Problem]:
    """Terms of a part that the data does not have, and parts that no term is of."""
    rationale = _rationale(stage)
    if rationale is not None:
        yield from _task_problems(stage, key)
    if isinstance(rationale, StepByStep):
        yield from _step_by_step_problems(stage, rationale, key)
        return
    for index, term in enumerate(stage.losses):
        if term.part is not None:
            yield Problem(
                (*key, "losses", index, "part"),
                "the data has no parts; write data.rationale: {kind: step_by_step}, or leave `part` "
                "out",
            )


def _rationale(stage: TrainStage) -> Rationale | None:
    data = stage.data
    has_none = isinstance(data, Classification | NamedIntentTask | StoreRows)
    return None if has_none else data.rationale


def _task_problems(stage: TrainStage, key: Key) -> Iterator[Problem]:
    """Sums whose steps are not apart from the answer."""
    for place, source in _sources(stage, key):
        if isinstance(source, AdditionTask) and source.steps != "rationale":
            yield Problem(
                (*place, "steps"),
                "the sums have no rationale apart from their completion; write steps: rationale",
            )


def _step_by_step_problems(stage: TrainStage, rationale: StepByStep, key: Key) -> Iterator[Problem]:
    for index, term in enumerate(stage.losses):
        if term.part is None:
            yield Problem(
                (*key, "losses", index),
                "completions and rationales are not to share one mean, in which the longer weighs "
                "more; write part: completion, or part: rationale, and a term for the other",
            )
    parts = {term.part for term in stage.losses}
    if None not in parts and "rationale" not in parts:
        yield Problem(
            (*key, "data", "rationale"),
            "no term of `losses` is of the rationales; add one with part: rationale, or leave "
            "`rationale` out",
        )
    if getattr(stage.data, "packing", False):
        yield Problem(
            (*key, "data", "packing"),
            "a row's two sequences are not packed; write packing: false",
        )
    if isinstance(stage.teacher, StoreTeacher):
        yield Problem(
            (*key, "teacher", "kind"),
            "a store has what the teacher says of one sequence per row, not of two; write `teacher: "
            "{model_name_or_path: ...}`",
        )
    for place, source in _sources(stage, key):
        if source.prompt_prefix == rationale.prefix:
            yield Problem(
                (*place, "prompt_prefix"),
                f"{rationale.prefix!r} stands before the prompts of rationales too, and nothing would tell the "
                "two tasks apart; write another",
            )


def _sources(stage: TrainStage, key: Key) -> Iterator[tuple[Key, AdditionTask | DatasetRows]]:
    """Where the rows come from, each with its place in the recipe."""
    data, place = stage.data, (*key, "data")
    if isinstance(data, Mixture):
        for index, source in enumerate(data.sources):
            yield (*place, "sources", index), source
    elif isinstance(data, DatasetSource | TrainedAddition):
        yield place, data
