"""Checks across the fields of a curate stage, and of stages that read what it made."""

import shutil
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from llmkd.recipe.base import RecipePart, parts_of, referenced_stage
from llmkd.recipe.curation import Concatenation, CurateStage, RowsMixture
from llmkd.recipe.curation_columns import column_problems
from llmkd.recipe.curation_steps import (
    AnswerStep,
    ContaminationStep,
    ExtractStep,
    LengthStep,
    RewriteStep,
    SelectStep,
    VerifyCommandStep,
    VerifyStep,
    VoteStep,
)
from llmkd.recipe.data import DatasetFiles
from llmkd.recipe.losses import KeptFraction
from llmkd.recipe.places import Problem
from llmkd.recipe.prompt_checks import WRITTEN
from llmkd.recipe.yaml_places import Key

UNDECIDED = "undecided"


def curation_problems(
    stage: RecipePart, key: Key, stages: Mapping[str, RecipePart]
) -> Iterator[Problem]:
    """What is wrong with a curate stage, or with how a stage names one.

    Args:
        stage: Any stage.
        key: Its own.
        stages: All that are known.
    """
    for place, part in parts_of(stage, key):
        if isinstance(part, DatasetFiles) and part.dataset_split == UNDECIDED:
            yield from _split_problems(part, place, stages)
        if isinstance(part, KeptFraction) and referenced_stage(part.stage) is None:
            yield Problem((*place, "stage"), f"{part.stage} is no stage; write stage:NAME")
    if isinstance(stage, CurateStage):
        for index, field, message in column_problems(stage, stages):
            yield Problem((*key, "steps", index, field), message)
        for index, step in enumerate(stage.steps):
            for field, message in _step_problems(stage, index, step):
                yield Problem((*key, "steps", index, field), message)


def _split_problems(
    source: DatasetFiles, key: Key, stages: Mapping[str, RecipePart]
) -> Iterator[Problem]:
    target = stages.get(referenced_stage(source.dataset_name) or "")
    if isinstance(target, CurateStage) and not any(map(_keeps_undecided, target.steps)):
        yield Problem(
            (*key, "dataset_split"),
            f"{source.dataset_name} keeps no undecided prompts; write undecided: keep in its vote, or "
            "leave dataset_split out",
        )


def _step_problems(stage: CurateStage, index: int, step: Any) -> Iterator[tuple[str, str]]:
    before = stage.steps[:index]
    if isinstance(step, AnswerStep) and step.grader == "math_verify":
        yield from _missing_package()
    match step:
        case LengthStep(min_length=least, max_length=int(most)) if most < least:
            yield "max_length", f"{most} is less than min_length: {least}; write a larger one"
        case VerifyCommandStep(command=[program, *_]) if shutil.which(program) is None:
            yield "command", f"there is no program {program}; write the path of one that may be run"
        case VoteStep() if _keeps_undecided(step) and any(map(_keeps_undecided, before)):
            yield UNDECIDED, "another vote before keeps them too; keep those of one vote per stage"
        case ContaminationStep(against=[], suites=[]):
            yield "against", "names nothing to look for; write data sets there, or `suites`"
        case RewriteStep() if isinstance(stage.data, Concatenation | RowsMixture):
            yield (
                "kind",
                "needs the numbers of prompts, which this `data` leaves out; name one stage",
            )
        case ExtractStep(column=str(column)) if column in WRITTEN:
            yield "column", _taken(column)
        case VoteStep(answer_column=str(column)) if column in WRITTEN:
            yield "answer_column", _taken(column)
        case SelectStep():
            yield from _select_problems(step, before)


def _taken(column: str) -> str:
    return f"`{column}` is the rows' own column; write another name, such as label"


def _keeps_undecided(step: Any) -> bool:
    return isinstance(step, VoteStep) and step.undecided == "keep"


def _select_problems(step: SelectStep, before: list[Any]) -> Iterator[tuple[str, str]]:
    if (step.fraction is None) == (step.pass_rate is None):
        yield "fraction", "write either `fraction` or `pass_rate`; for both, write two steps"
    if step.pass_rate is None:
        return
    low, high = step.pass_rate
    if high < low:
        yield "pass_rate", f"goes from {low:g} down to {high:g}; write the lower rate first"
    keeps = [each.keep for each in before if isinstance(each, VerifyStep)]
    if keeps and "all" not in keeps:
        yield (
            "pass_rate",
            "the `verify` before keeps right rows only, and writes no `is_right`; write keep: all "
            "there, and another `verify` behind this step",
        )


def _missing_package() -> Iterator[tuple[str, str]]:
    if find_spec("math_verify") is None:
        yield (
            "grader",
            "math_verify is not installed; run pip install 'llmkd[eval]', or write grader: number",
        )
