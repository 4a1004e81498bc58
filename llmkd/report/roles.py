"""Who is who in a recipe: the students, the teachers, and the twins that had no teacher."""

from collections.abc import Collection, Iterator
from typing import Literal

from llmkd.recipe.base import STAGE_REFERENCE, referenced_stage
from llmkd.recipe.models import PretrainedStudent
from llmkd.recipe.references import references
from llmkd.recipe.schema import (
    CurateStage,
    EvaluateStage,
    KDRLStage,
    MergeStage,
    PruneStage,
    Recipe,
    TeacherDataStage,
    TrainStage,
)

Role = Literal["student", "twin", "teacher", "other"]


def find_roles(recipe: Recipe) -> dict[str, Role]:
    """The role of every model, by what results call it: the stage's name, or the path given.

    A train stage with a teacher, or whose data a teacher wrote, is a student, and so is one that
    trains a student on, or merges some. A model that a teacher field names is a teacher. What a teacher or a student
    was trained on from has no role, nor have other models that are measured. Other train stages are
    twins.
    """
    taught = {name for name in recipe.stages if teachers_of(recipe, name)}
    teachers = list(dict.fromkeys(_all_teachers(recipe)))
    begun_from = {before for name in (*taught, *teachers) for before in _ancestors(recipe, name)}
    roles: dict[str, Role] = {}
    for name in [*_measured(recipe), *_trained(recipe), *teachers]:
        if name in taught:
            roles[name] = "student"
        elif name in teachers:
            roles[name] = "teacher"
        else:
            is_twin = _is_trained(recipe, name) and name not in begun_from
            roles[name] = "twin" if is_twin else "other"
    return roles


def only_twin(recipe: Recipe, measured: Collection[str]) -> str | None:
    """The twin that students are compared with over runs, where there is no choice."""
    roles = find_roles(recipe)
    twins = [model for model, role in roles.items() if role == "twin" and model in measured]
    return twins[0] if len(twins) == 1 else None


def teachers_of(recipe: Recipe, name: str) -> list[str]:
    """The models that a stage's model has learned from, itself or by those that it is made of.

    They are its teacher's, and who wrote its data.
    """
    stages = (name, *_ancestors(recipe, name))
    return list(
        dict.fromkeys(teacher for each in stages for teacher in _own_teachers(recipe, each))
    )


def _own_teachers(recipe: Recipe, name: str) -> list[str]:
    stage = recipe.stages.get(name)
    if not isinstance(stage, TrainStage | KDRLStage):
        return []
    found = list(references(stage.teacher)) if stage.teacher else []
    for value in [*found, *references(stage.data)]:
        found += _writers(recipe, value)
    return [_label(value) for value in found if not _is_store(recipe, value)]


def _writers(recipe: Recipe, value: str) -> Iterator[str]:
    """The teachers of a stage that asks one, and of those whose rows a curate stage reads."""
    left, seen = [value], set[str]()
    while left:
        name = referenced_stage(left.pop(0)) or ""
        source = None if name in seen else recipe.stages.get(name)
        seen.add(name)
        if isinstance(source, TeacherDataStage):
            yield from references(source.teacher)
        elif isinstance(source, CurateStage):
            left += references(source)


def _is_store(recipe: Recipe, value: str) -> bool:
    return isinstance(recipe.stages.get(referenced_stage(value) or ""), TeacherDataStage)


def _ancestors(recipe: Recipe, name: str) -> list[str]:
    """The stages whose models a stage makes its own of, from the nearest to the first."""
    found, left = list[str](), _begun_from(recipe, name)
    while left:
        before = left.pop(0)
        if before not in (name, *found):
            found.append(before)
            left += _begun_from(recipe, before)
    return found


def _begun_from(recipe: Recipe, name: str) -> list[str]:
    """The stages whose weights a stage trains on, prunes or merges."""
    match recipe.stages.get(name):
        case (
            TrainStage(student=PretrainedStudent(model_name_or_path=source))
            | KDRLStage(student=PretrainedStudent(model_name_or_path=source))
        ):
            sources = [source]
        case PruneStage(model=model):
            sources = [model.model_name_or_path]
        case MergeStage(inputs=inputs):
            sources = list(inputs.values())
        case _:
            sources = []
    return [stage for source in sources if (stage := referenced_stage(source)) is not None]


def _all_teachers(recipe: Recipe) -> Iterator[str]:
    for name, stage in recipe.stages.items():
        yield from teachers_of(recipe, name)
        if isinstance(stage, TeacherDataStage):
            yield from map(_label, references(stage.teacher))


def _trained(recipe: Recipe) -> list[str]:
    return [name for name in recipe.stages if _is_trained(recipe, name)]


def _is_trained(recipe: Recipe, name: str) -> bool:
    return isinstance(recipe.stages.get(name), TrainStage | KDRLStage)


def _measured(recipe: Recipe) -> list[str]:
    stages = recipe.stages.values()
    return [_label(m) for stage in stages if isinstance(stage, EvaluateStage) for m in stage.models]


def _label(reference: str) -> str:
    return reference.removeprefix(STAGE_REFERENCE)
