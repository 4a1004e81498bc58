"""What a generate stage writes, and what other stages take of it. No torch."""

from collections.abc import Iterator, Mapping

from llmkd.recipe.base import referenced_stage
from llmkd.recipe.data import DatasetRows, Mixture, NamedIntentPrompts, PromptRows, PromptTask
from llmkd.recipe.places import Problem
from llmkd.recipe.schema import (
    CurateStage,
    EvaluateStage,
    GenerateStage,
    MergeStage,
    Stage,
    TaskRowsStage,
)
from llmkd.recipe.yaml_places import Key

WRITTEN = ("prompt", "messages", "completion", "number")
"""The columns of `data.jsonl` that no data set's column may take the place of."""


def prompt_problems(stage: Stage, key: Key, stages: Mapping[str, Stage]) -> Iterator[Problem]:
    """What is wrong with the columns that a generate stage keeps, or that are taken of one.

    Args:
        stage: Any one.
        key: Where it stands.
        stages: All of them.
    """
    if isinstance(stage, GenerateStage):
        yield from _kept_problems(stage, (*key, "data"))
    if not isinstance(stage, EvaluateStage | CurateStage | MergeStage | TaskRowsStage):
        for place, source in _data_sets(stage.data, (*key, "data")):
            name = referenced_stage(source.dataset_name)
            asked = stages.get(name) if name is not None else None
            if isinstance(asked, GenerateStage) and source.dataset_split == "train":
                yield from _taken_problems(source, place, f"stage:{name}", asked)


def _kept_problems(stage: GenerateStage, key: Key) -> Iterator[Problem]:
    known = None if isinstance(stage.data, PromptRows) else _columns_of_task(stage.data)
    for index, name in enumerate(stage.data.keep_columns):
        place = (*key, "keep_columns", index)
        if name in WRITTEN:
            yield Problem(
                place,
                f"`{name}` is a column that the stage writes itself; leave it out, or call the data "
                f"set's own otherwise, such as `own_{name}`",
            )
        elif known is not None and name not in known:
            message = f"the task has no column `{name}`; write some of {', '.join(known)}"
            yield Problem(place, message)
    if isinstance(stage.data, PromptRows) and stage.data.prompt_file and stage.data.columns:
        yield Problem(
            (*key, "columns"),
            "the places in prompt_file have the data set's own names; leave columns out, or "
            "prompt_file",
        )


def _columns_of_task(task: PromptTask | NamedIntentPrompts) -> list[str]:
    has_rationale = isinstance(task, PromptTask) and task.steps == "rationale"
    return ["answer", "rationale"] if has_rationale else ["answer"]


def _data_sets(data: object, key: Key) -> Iterator[tuple[Key, DatasetRows]]:
    if isinstance(data, DatasetRows):
        yield key, data
    for index, source in enumerate(data.sources if isinstance(data, Mixture) else []):
        yield from _data_sets(source, (*key, "sources", index))


def _taken_problems(
    source: DatasetRows, key: Key, asked: str, stage: GenerateStage
) -> Iterator[Problem]:
    written = [*WRITTEN, *stage.data.keep_columns]
    taken: dict[Key, str] = {("columns", name): column for name, column in source.columns.items()}
    if isinstance(source, PromptRows):
        taken |= {("keep_columns", i): name for i, name in enumerate(source.keep_columns)}
    for place, column in taken.items():
        if column not in written:
            yield Problem(
                (*key, *place),
                f"{asked} writes no `{column}`, but {', '.join(written)}; write keep_columns: "
                f"[{column}] in the data of {asked}, or one of these",
            )
