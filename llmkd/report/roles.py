"""Who is who in a recipe: the students, the teachers, and the twins that had no teacher."""

from collections.abc import Iterator
from typing import Literal

from llmkd.recipe.base import STAGE_REFERENCE, referenced_stage
from llmkd.recipe.references import references
from llmkd.recipe.schema import EvaluateStage, GenerateStage, Recipe, TrainStage

Role = Literal["student", "twin", "teacher", "other"]


def find_roles(recipe: Recipe) -> dict[str, Role]:
    """The role of every model, by what results call it: the stage's name, or the path given.

    A train stage with a teacher, or whose data a teacher wrote, is a student. A model that a
    teacher field names is a teacher. Other train stages are twins, and other models that are
    measured have no role.
    """
    taught = {name for name in recipe.stages if teachers_of(recipe, name)}
    teachers = set(_all_teachers(recipe))
    roles: dict[str, Role] = {}
    for name in [*_measured(recipe), *_trained(recipe), *teachers]:
        if name in taught:
            roles[name] = "student"
        elif name in teachers:
            roles[name] = "teacher"
        else:
            roles[name] = "twin" if _is_trained(recipe, name) else "other"
    return roles


def teachers_of(recipe: Recipe, name: str) -> list[str]:
    """The models that a train stage learns from: its teacher's, and who wrote its data."""
    stage = recipe.stages.get(name)
    if not isinstance(stage, TrainStage):
        return []
    found = list(references(stage.teacher)) if stage.teacher else []
    for value in references(stage.data):
        source = recipe.stages.get(referenced_stage(value) or "")
        if isinstance(source, GenerateStage):
            found += references(source.teacher)
    return list(dict.fromkeys(_label(value) for value in found))


def _all_teachers(recipe: Recipe) -> Iterator[str]:
    for name, stage in recipe.stages.items():
        yield from teachers_of(recipe, name)
        if isinstance(stage, GenerateStage):
            yield from map(_label, references(stage.teacher))


def _trained(recipe: Recipe) -> list[str]:
    return [name for name in recipe.stages if _is_trained(recipe, name)]


def _is_trained(recipe: Recipe, name: str) -> bool:
    return isinstance(recipe.stages.get(name), TrainStage)


def _measured(recipe: Recipe) -> list[str]:
    stages = recipe.stages.values()
    return [_label(m) for stage in stages if isinstance(stage, EvaluateStage) for m in stage.models]


def _label(reference: str) -> str:
    return reference.removeprefix(STAGE_REFERENCE)
