"""Checks across a recipe's stages: a classifier is no language model, and the other way round."""

from collections.abc import Iterator, Mapping

from llmkd.recipe.base import referenced_stage
from llmkd.recipe.classification import ClassifierTask
from llmkd.recipe.data import Classification, LabelledRows
from llmkd.recipe.evaluation import Suite, is_for_classifiers
from llmkd.recipe.models import PretrainedStudent, ScratchStudent
from llmkd.recipe.ood import OODTask
from llmkd.recipe.places import Problem
from llmkd.recipe.references import trained_as
from llmkd.recipe.schema import (
    EvaluateStage,
    GenerateStage,
    PruneStage,
    ScoreStage,
    Stage,
    TeacherDataStage,
    TrainStage,
)
from llmkd.recipe.yaml_places import Key

HEAD_FIELDS = ("num_labels", "id2label", "label2id", "problem_type")


def kind_problems(stages: Mapping[str, Stage], suites: Mapping[str, Suite]) -> Iterator[Problem]:
    """Stages that take a model of the other kind from an earlier one, or its rows without labels.

    Args:
        stages: Those to check.
        suites: Of each evaluate stage, as far as they are known.
    """
    for name, stage in stages.items():
        key = ("stages", name)
        for place, source, wants_classifier in _taken(stage, key, suites.get(name)):
            target = trained_as(stages, source)
            if isinstance(target, TrainStage) and is_of_classifier(target) != wants_classifier:
                yield Problem(place, _wrong_kind(source, wants_classifier=wants_classifier))
        if isinstance(stage, TrainStage) and is_of_classifier(stage):
            yield from _head_problems(stage, key)
        for place, source in _labelled_data(stage, key, suites.get(name)):
            if isinstance(stages.get(referenced_stage(source) or ""), TeacherDataStage):
                yield Problem(
                    place,
                    f"{source} makes prompts and completions, which have no label; name labelled rows",
                )


def suite_problems(suite: Suite, key: Key) -> Iterator[Problem]:
    """Tasks for classifiers beside tasks for language models, which no model can do both.

    And tasks for classifiers whose fields do not fit each other.
    """
    for index, task in enumerate(suite.tasks):
        if isinstance(task, ClassifierTask):
            for field, message in task.problems():
                yield Problem((*key, index, field), message)
        elif is_for_classifiers(suite):
            yield Problem(
                (*key, index),
                f"{task.kind} is for language models, and the suite has tasks for classifiers; "
                "write two suites, each with its own evaluate stage",
            )


def is_of_classifier(stage: TrainStage) -> bool:
    """Whether a train stage makes a classifier."""
    return isinstance(stage.data, Classification)


def _taken(stage: Stage, key: Key, suite: Suite | None) -> Iterator[tuple[Key, str, bool]]:
    """Each model of one kind that a stage takes: where, its name, whether it is a classifier."""
    match stage:
        case TrainStage():
            place = (*key, "student", "model_name_or_path")
            # Of a classifier's student not: a language model gets a head.
            if isinstance(stage.student, PretrainedStudent) and not is_of_classifier(stage):
                yield place, stage.student.model_name_or_path, False
            if stage.local_teacher is not None:
                place = (*key, "teacher", "model_name_or_path")
                yield place, stage.local_teacher.model_name_or_path, is_of_classifier(stage)
        case GenerateStage() | ScoreStage():
            place = (*key, "teacher", "model_name_or_path")
            yield place, stage.teacher.model_name_or_path, False
        case PruneStage():
            yield (*key, "model", "model_name_or_path"), stage.model.model_name_or_path, False
        case EvaluateStage() if suite is not None:
            for index, model in enumerate(stage.models):
                yield (*key, "models", index), model, is_for_classifiers(suite)
            if stage.teacher is not None:
                place = (*key, "teacher", "model_name_or_path")
                yield place, stage.teacher.model_name_or_path, is_for_classifiers(suite)


def _labelled_data(stage: Stage, key: Key, suite: Suite | None) -> Iterator[tuple[Key, str]]:
    """Each data set of labelled rows that a stage reads: where, and its name."""
    sources: dict[Key, object] = {}
    if isinstance(stage, TrainStage):
        sources[*key, "data"] = stage.data
    for index, task in enumerate(suite.tasks if suite is not None else []):
        sources[*key, "suite", "tasks", index, "data"] = getattr(task, "data", None)
        if isinstance(task, OODTask):
            sources[*key, "suite", "tasks", index, "out_data"] = task.out_data
    for place, source in sources.items():
        if isinstance(source, LabelledRows):
            yield (*place, "dataset_name"), source.dataset_name


def _wrong_kind(source: str, *, wants_classifier: bool) -> str:
    if wants_classifier:
        return (
            f"{source} makes a language model, and a classifier is needed here; write a stage with "
            "data of kind classification"
        )
    return (
        f"{source} makes a classifier, which writes no text, and a language model is needed here; "
        "write a stage that trains on text"
    )


def _head_problems(stage: TrainStage, key: Key) -> Iterator[Problem]:
    if isinstance(stage.student, ScratchStudent):
        for field in HEAD_FIELDS:
            if field in stage.student.config:
                place = (*key, "student", "config", field)
                yield Problem(
                    place,
                    "follows from the data; leave it out, or write data.labels or data.problem_type",
                )
