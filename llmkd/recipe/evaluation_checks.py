"""Checks across an evaluate stage's fields and its suite: teachers and engines."""

from collections.abc import Iterator, Mapping

from llmkd.recipe.distillation_effects import TeacherTask
from llmkd.recipe.evaluation import Suite
from llmkd.recipe.harness import LMEvalTask
from llmkd.recipe.places import Problem
from llmkd.recipe.reasoning import ReasoningTask
from llmkd.recipe.schema import EvaluateStage, Stage
from llmkd.recipe.teacher_data import ServerEngine, TransformersEngine
from llmkd.recipe.yaml_places import Key


def suite_use_problems(
    stages: Mapping[str, Stage], suites: Mapping[str, Suite]
) -> Iterator[Problem]:
    """What a suite's tasks lack, or would not use.

    Args:
        stages: Those of the recipe that hold by themselves.
        suites: Stage name to its suite.
    """
    for name, suite in suites.items():
        stage = stages[name]
        if isinstance(stage, EvaluateStage):
            yield from _teacher_problems(stage, suite, ("stages", name, "teacher"))
            yield from _engine_problems(stage, suite, ("stages", name, "engine"))


def _teacher_problems(stage: EvaluateStage, suite: Suite, key: Key) -> Iterator[Problem]:
    asking = [task.name for task in suite.tasks if isinstance(task, TeacherTask)]
    if asking and stage.teacher is None:
        yield Problem(
            key,
            f"missing, and task {asking[0]} compares with a teacher; write teacher: "
            "{model_name_or_path: ...} (llmkd eval: --teacher MODEL)",
        )


def _engine_problems(stage: EvaluateStage, suite: Suite, key: Key) -> Iterator[Problem]:
    if stage.engine is None or isinstance(stage.engine, TransformersEngine):
        return
    if not any(isinstance(task, ReasoningTask | LMEvalTask) for task in suite.tasks):
        yield Problem(
            key, f"no task of suite {suite.name} writes by {stage.engine.kind}; leave engine out"
        )
    if isinstance(stage.engine, ServerEngine) and len(stage.models) > 1:
        yield Problem(
            key, "a server has one model, whose answers would count for all; name one model"
        )
