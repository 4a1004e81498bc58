"""Which columns the rows of a curate stage have, as far as the recipe says."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llmkd.recipe.base import RecipePart, referenced_stage
from llmkd.recipe.curation import Concatenation, CurateStage, RowsMixture
from llmkd.recipe.curation_steps import (
    AnswerStep,
    CuratedRows,
    ExtractStep,
    RewriteStep,
    SelectStep,
    VerifyStep,
    VoteStep,
)
from llmkd.recipe.procedural import columns_of
from llmkd.recipe.prompt_checks import WRITTEN
from llmkd.recipe.schema import GenerateStage, TaskRowsStage

Stages = Mapping[str, RecipePart]


def column_problems(stage: CurateStage, stages: Stages) -> Iterator[tuple[int, str, str]]:
    """Columns that steps name and no row will have, found before a teacher is asked for them.

    Yields:
        The step's index, its field, and the message.
    """
    columns = _read(stage, stages)
    for index, step in enumerate(stage.steps):
        for field, name in _needed(step):
            if columns is not None and name not in columns:
                yield (
                    index,
                    field,
                    f"the rows have no column `{name}`, but {', '.join(columns)}; write one of these, "
                    f"or keep_columns: [{name}] in the data of the generate stage",
                )
        columns = _after(step, columns, stages)


def written_columns(stage: RecipePart | None, stages: Stages) -> list[str] | None:
    """The columns of a stage's data set; None where the recipe does not say."""
    if isinstance(stage, GenerateStage):
        return [*WRITTEN, *stage.data.keep_columns]
    if isinstance(stage, TaskRowsStage):
        return columns_of(stage.data)
    if not isinstance(stage, CurateStage):
        return None
    columns = _read(stage, stages)
    for step in stage.steps:
        columns = _after(step, columns, stages)
    return columns


def _read(stage: CurateStage, stages: Stages) -> list[str] | None:
    match stage.data:
        case CuratedRows() as source:
            return _of_source(source, stages)
        case Concatenation(sources=sources) | RowsMixture(sources=sources):
            return _of_all(sources, stages)
        case sources:
            return _of_all(sources, stages)


def _of_all(sources: Iterable[CuratedRows], stages: Stages) -> list[str] | None:
    """Those of any source, as some rows have them."""
    found = [_of_source(source, stages) for source in sources]
    known = [columns for columns in found if columns is not None]
    if len(known) < len(found):
        return None
    return list(dict.fromkeys(name for columns in known for name in columns))


def _of_source(source: CuratedRows, stages: Stages) -> list[str] | None:
    target = stages.get(referenced_stage(source.dataset_name) or "")
    # A stage that reads itself is refused elsewhere.
    columns = written_columns(target, {k: v for k, v in stages.items() if v is not target})
    ours = {written: name for name, written in source.columns.items()}
    return None if columns is None else [ours.get(name, name) for name in columns]


def _needed(step: Any) -> Iterator[tuple[str, str]]:
    if isinstance(step, VerifyStep):
        yield "reference", step.reference
    if isinstance(step, SelectStep) and step.pass_rate is not None:
        yield "pass_rate", "is_right"
    match step:
        case RewriteStep():  # Whose choices are the originals'.
            return
        case AnswerStep(grader="multiple_choice", labels=None):
            yield "choices_column", step.choices_column


def _after(step: Any, columns: list[str] | None, stages: Stages) -> list[str] | None:
    """The columns that there are behind a step."""
    match step:
        case RewriteStep(originals=originals):
            found = _of_source(originals, stages)
            return None if found is None else [*found, "number", "is_rewritten"]
        case VerifyStep(keep="all"):
            added = "is_right"
        case ExtractStep(column=added) | VoteStep(answer_column=str(added)):
            pass
        case _:
            return columns
    return None if columns is None else [*columns, added]
