"""Checks across the fields of a kdrl stage."""

from collections.abc import Iterator, Mapping

from llmkd.errors import InputError
from llmkd.recipe.base import referenced_stage
from llmkd.recipe.curation_columns import written_columns
from llmkd.recipe.data import AdditionTask, Prompts
from llmkd.recipe.grpo_arguments import distillation_refusals, is_trl_installed
from llmkd.recipe.kdrl import GRPO, KDRL, OPD, Imitation, KDRLStage, OPDThenRL, SwitchAtPlateau
from llmkd.recipe.places import Problem
from llmkd.recipe.reward_checks import correct_reward, reward_problems
from llmkd.recipe.rollout_teachers import (
    RolloutServer,
    RoutedTeacher,
    named_teachers,
    server_refusals,
)
from llmkd.recipe.schema import Stage
from llmkd.recipe.yaml_places import Key

COLUMN_SUFFIX = "_column"
"""What ends the names of a reward's fields that name a column."""
POLICY_TERMS = ("beta", "entropy_coef", "use_adaptive_entropy")
"""What TRL adds to the loss beside the rewards."""


def kdrl_problems(stage: KDRLStage, key: Key, stages: Mapping[str, Stage]) -> Iterator[Problem]:
    """What is wrong with a kdrl stage, as far as recipes tell."""
    if not is_trl_installed():
        yield Problem(
            (*key, "kind"),
            "stands on TRL, which is not installed; write pip install 'llmkd[rl]' in the shell",
        )
    yield from reward_problems(stage.reward_funcs, (*key, "reward_funcs"))
    yield from _teacher_problems(stage, key)
    yield from _objective_problems(stage, key)
    for name, message in _argument_problems(stage):
        yield Problem((*key, "trainer", name), message)
    yield from _guard_problems(stage, key)
    yield from _column_problems(stage, stage.data, (*key, "data"), stages)
    if stage.validation is not None:
        place = (*key, "validation", "data")
        yield from _column_problems(stage, stage.validation.data, place, stages)
        template = getattr(stage.validation.data, "chat_template", None)
        if template not in (None, getattr(stage.data, "chat_template", None)):
            yield Problem(
                (*place, "chat_template"),
                "a student has one template, which `data.chat_template` names; write it there",
            )


def _teacher_problems(stage: KDRLStage, key: Key) -> Iterator[Problem]:
    kind = stage.objective.kind
    if isinstance(stage.objective, GRPO) and stage.teacher is not None:
        yield Problem(
            (*key, "teacher"),
            "grpo asks no teacher; leave it out, or write `objective: {kind: kdrl}`",
        )
    for place, teacher in stage.local_teachers.items():
        if teacher.sharded:
            yield Problem(
                (*key, *place.split("."), "sharded"),
                "processes score different numbers of rollouts, and would wait for each other; leave "
                "it out, and write offload: cpu, or a server",
            )
    if isinstance(stage.teacher, RoutedTeacher):
        yield from _route_problems(stage, stage.teacher, key)
    full_vocabulary = getattr(stage.objective, "estimator", None) == "full_vocabulary"
    temperature = stage.trainer.get("temperature", 1.0)
    if not isinstance(temperature, int | float):
        # Told by the check of the block.
        temperature = 1.0
    named = {} if stage.teacher is None else named_teachers(stage.teacher)
    for place, teacher in named.items():
        if isinstance(teacher, RolloutServer):
            for problem in server_refusals(
                place, temperature=temperature, full_vocabulary=full_vocabulary
            ):
                yield Problem((*key, *place.split(".")), problem)
    if isinstance(stage.objective, Imitation) and stage.teacher is None:
        yield Problem(
            (*key, "objective"),
            f"{kind} compares the student with a teacher, and the stage has none; write `teacher: "
            "{model_name_or_path: ...}`, or `objective: {kind: grpo}`",
        )


def _route_problems(stage: KDRLStage, teacher: RoutedTeacher, key: Key) -> Iterator[Problem]:
    sources: dict[Key, Prompts] = {("data",): stage.data}
    if stage.validation is not None:
        sources["validation", "data"] = stage.validation.data
    for place, data in sources.items():
        if teacher.column not in data.keep_columns:
            kept = ", ".join([*data.keep_columns, teacher.column])
            yield Problem(
                (*key, *place, "keep_columns"),
                f"teacher.column reads `{teacher.column}`; write keep_columns: [{kept}]",
            )


def _objective_problems(stage: KDRLStage, key: Key) -> Iterator[Problem]:
    objective = stage.objective
    problem = _correct_problem(stage)
    if isinstance(objective, KDRL) and problem:
        if objective.correct is not None:
            yield Problem((*key, "objective", "correct"), problem)
        elif objective.mask != "none":
            yield Problem((*key, "objective", "mask"), problem)
    if isinstance(objective, OPDThenRL) and isinstance(objective.switch, SwitchAtPlateau):
        if stage.validation is None:
            yield Problem(
                (*key, "objective", "switch"),
                "a plateau is one of the validation, and the stage has none; write `validation: "
                "{data: ..., steps: ...}`, or `switch: {kind: step, step: ...}`",
            )
        if problem:
            yield Problem((*key, "objective", "switch"), problem)


def _argument_problems(stage: KDRLStage) -> Iterator[tuple[str, str]]:
    """Arguments of TRL's that do not fit the rest of the stage."""
    if isinstance(stage.objective, Imitation):
        yield from distillation_refusals(stage.trainer)
    if isinstance(stage.objective, OPD):
        for name in POLICY_TERMS:
            if stage.trainer.get(name):
                yield name, "opd is the teacher's term alone; leave it out"
    student = stage.student
    is_elsewhere = student.revision is not None or student.adapter_name_or_path is not None
    if stage.trainer.get("beta") and student.lora is None and is_elsewhere:
        yield (
            "beta",
            "TRL reads the reference from student.model_name_or_path alone, and the student is "
            "another; write beta: 0, `student.lora`, or the path of the whole student",
        )


def _correct_problem(stage: KDRLStage) -> str | None:
    try:
        correct_reward(stage.reward_funcs, stage.correct)
    except InputError as error:
        return str(error)
    return None


def _guard_problems(stage: KDRLStage, key: Key) -> Iterator[Problem]:
    for index, guard in enumerate(stage.guards):
        place = (*key, "guards", index)
        if guard.above is None and guard.below is None:
            yield Problem(place, "has no limit; write `above`, `below`, or both")
        if guard.metric == "reverse_kl" and isinstance(stage.objective, GRPO):
            yield Problem(place, "grpo has no teacher whose KL could be measured; leave it out")
        if guard.action == "soften" and isinstance(stage.objective, GRPO):
            yield Problem(place, "grpo has no coefficient to soften; write `action: stop`")


def _column_problems(
    stage: KDRLStage, data: Prompts, key: Key, stages: Mapping[str, Stage]
) -> Iterator[Problem]:
    """Columns that rewards read and rollouts will not have."""
    kept = data.keep_columns
    for index, reward in enumerate(stage.reward_funcs):
        for field in type(reward).model_fields:
            name = getattr(reward, field)
            if field.endswith(COLUMN_SUFFIX) and name not in kept:
                yield Problem(
                    (*key, "keep_columns"),
                    f"reward_funcs.{index}.{field} reads `{name}`; write keep_columns: "
                    f"[{', '.join([*kept, name])}]",
                )
    there = _columns_of(data, stages)
    for index, name in enumerate(kept):
        if there is not None and name not in there:
            yield Problem(
                (*key, "keep_columns", index),
                f"the rows have no column `{name}`, but {', '.join(there)}; write some of these",
            )


def _columns_of(data: Prompts, stages: Mapping[str, Stage]) -> list[str] | None:
    """None where the recipe does not say."""
    if isinstance(data, AdditionTask):
        return ["answer"]
    name = referenced_stage(getattr(data, "dataset_name", ""))
    return None if name is None else written_columns(stages.get(name), stages)
