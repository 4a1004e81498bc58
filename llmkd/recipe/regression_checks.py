"""Checks across a recipe's stages: what gives a number has no labels, nor probabilities of them."""

from collections.abc import Iterator, Mapping

from llmkd.recipe.classification import NO_LABELS, ClassifierTask
from llmkd.recipe.data import Classification, LabelledRows, is_regression
from llmkd.recipe.evaluation import Suite
from llmkd.recipe.losses import CrossEntropyTerm, LabelMSETerm, LogitMSETerm, Loss
from llmkd.recipe.places import Problem
from llmkd.recipe.references import trained_as
from llmkd.recipe.schema import EvaluateStage, Stage, TrainStage
from llmkd.recipe.yaml_places import Key


def regression_problems(
    stages: Mapping[str, Stage], suites: Mapping[str, Suite]
) -> Iterator[Problem]:
    """Terms that do not fit the labels, and models that give a number where a label is needed.

    Args:
        stages: Those to check.
        suites: Of each evaluate stage, as far as they are known.
    """
    for name, stage in stages.items():
        key = ("stages", name)
        for place, source, wants_number in _taken(stage, key, suites.get(name)):
            target = trained_as(stages, source)
            data = target.data if isinstance(target, TrainStage) else None
            if isinstance(data, Classification) and is_regression(data) != wants_number:
                yield Problem(place, _wrong_output(source, wants_number=wants_number))
        if isinstance(stage, TrainStage):
            yield from _train_problems(stage, key)


def _taken(stage: Stage, key: Key, suite: Suite | None) -> Iterator[tuple[Key, str, bool]]:
    """Each trained classifier that a stage takes: where, its name, whether it is to give a number."""
    if isinstance(stage, TrainStage) and stage.local_teacher is not None:
        place = (*key, "teacher", "model_name_or_path")
        yield place, stage.local_teacher.model_name_or_path, is_regression(stage.data)
    if isinstance(stage, EvaluateStage) and suite is not None:
        kinds = {is_regression(t.data) for t in suite.tasks if isinstance(t, ClassifierTask)}
        for index, model in enumerate(stage.models):
            for wants_number in kinds:
                yield (*key, "models", index), model, wants_number


def _wrong_output(source: str, *, wants_number: bool) -> str:
    if wants_number:
        return (
            f"{source} gives one of several labels, and a number is needed here; write a stage whose "
            "data has problem_type: regression"
        )
    return (
        f"{source} gives a number, and one of several labels is needed here; write a stage whose data "
        "has no problem_type: regression"
    )


def _train_problems(stage: TrainStage, key: Key) -> Iterator[Problem]:
    for index, term in enumerate(stage.losses):
        if message := _wrong_term(term, is_number=is_regression(stage.data)):
            yield Problem((*key, "losses", index, "kind"), message)
    if isinstance(stage.data, LabelledRows) and is_regression(stage.data) and stage.data.labels:
        yield Problem((*key, "data", "labels"), NO_LABELS)


def _wrong_term(term: Loss, *, is_number: bool) -> str | None:
    match term:
        case LabelMSETerm() if not is_number:
            return (
                "label_mse is of labels that are numbers; write cross_entropy, or data of kind "
                "classification with problem_type: regression"
            )
        case LabelMSETerm() | LogitMSETerm():
            return None
        case CrossEntropyTerm() if is_number:
            return (
                "cross_entropy is of one of several labels, and these are numbers; write label_mse"
            )
        case _ if is_number:
            return (
                f"{term.kind} compares probabilities, and of one output the softmax is always 1; "
                "write logit_mse"
            )
    return None
