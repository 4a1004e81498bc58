"""Teachers beside a student: where their weights are, and in how many bits. No torch."""

from collections.abc import Iterator, Mapping

from llmkd.recipe.kdrl import KDRLStage
from llmkd.recipe.models import InProcessTeacher
from llmkd.recipe.places import Problem
from llmkd.recipe.schema import Stage, TrainStage
from llmkd.recipe.yaml_places import Key


def teacher_problems(stage: Stage, key: Key) -> Iterator[Problem]:
    """What does not go together in a stage's teachers."""
    for place, teacher in _teachers(stage).items():
        here = (*key, *place.split("."))
        if teacher.sharded and isinstance(stage, KDRLStage):
            yield Problem(
                (*here, "sharded"),
                "processes score different numbers of rollouts, and would wait for each other; leave "
                "it out, and write offload: cpu, or a server",
            )
        if teacher.quantization is None:
            continue
        for name in ("offload", "sharded", "adapter_name_or_path"):
            if getattr(teacher, name):
                yield Problem(
                    (*here, "quantization"),
                    f"quantised weights do not go together with {name}; leave one of the two out",
                )


def _teachers(stage: Stage) -> Mapping[str, InProcessTeacher]:
    if isinstance(stage, KDRLStage):
        return stage.local_teachers
    teacher = stage.local_teacher if isinstance(stage, TrainStage) else None
    return {} if teacher is None else {"teacher": teacher}
