"""Adapters where none can be, or where none can come from. No torch."""

from collections.abc import Iterator

from llmkd.recipe.base import referenced_stage
from llmkd.recipe.data import Classification
from llmkd.recipe.models import PretrainedModel, PretrainedStudent
from llmkd.recipe.places import Problem
from llmkd.recipe.schema import KDRLStage, PruneStage, Stage, TrainStage
from llmkd.recipe.yaml_places import Key

FIELD = "adapter_name_or_path"
MERGED = "merge it into its model (peft's merge_and_unload), and write that as model_name_or_path"


def adapter_problems(stage: Stage, key: Key) -> Iterator[Problem]:
    """What is wrong with the adapters of a stage's student, teacher or model."""
    student = stage.student if isinstance(stage, TrainStage | KDRLStage) else None
    if isinstance(student, PretrainedStudent) and student.adapter_name_or_path is not None:
        message = f"a student does not start from an adapter; {MERGED}"
        yield Problem((*key, "student", FIELD), message)
    role = "model" if isinstance(stage, PruneStage) else "teacher"
    adapted = getattr(stage, role, None)
    if not isinstance(adapted, PretrainedModel) or adapted.adapter_name_or_path is None:
        return
    place = (*key, role, FIELD)
    if isinstance(stage, TrainStage) and isinstance(stage.data, Classification):
        yield Problem(place, f"a classifier's adapter has its head too; {MERGED}")
    if referenced_stage(adapted.adapter_name_or_path) is not None:
        yield Problem(
            place,
            "a stage's model has its adapter merged into it; write it as model_name_or_path, and no "
            "adapter",
        )
