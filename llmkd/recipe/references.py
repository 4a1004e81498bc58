"""What a stage takes from elsewhere: models, tokenizers and data, by path, hub name or `stage:NAME`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from llmkd.recipe import local_paths
from llmkd.recipe.base import RecipePart, referenced_stage
from llmkd.recipe.schema import MergeStage, Recipe, Stage
from llmkd.recipe.shipped import beside_recipes

REFERENCE_FIELDS = frozenset(
    {
        "model_name_or_path",
        "adapter_name_or_path",
        "tokenizer_name_or_path",
        "dataset_name",
        "fewshot_name",
        "definition",
        "chat_template",
        "prompt_file",
        "models",
        "base",
        "deepspeed",
        "path",
        "stage",
        "suites",
    }
)
"""The fields, anywhere in a stage, that name something outside it."""

NAMING_FIELDS = frozenset({"teachers"})
"""Mappings whose keys are a user's own names, and no fields."""

AnyStage = TypeVar("AnyStage", bound=RecipePart)


def references(stage: RecipePart) -> Iterator[str]:
    """Every path, hub name or `stage:NAME` that a stage names, in the order of its fields."""
    found: list[str] = []

    def note(value: str) -> str:
        found.append(value)
        return value

    _rewritten(stage.model_dump(mode="json"), note)
    yield from found


def referenced_stages(stage: Stage) -> list[str]:
    """The names of the stages whose products a stage takes, each once."""
    names = (referenced_stage(value) for value in references(stage))
    return list(dict.fromkeys(name for name in names if name is not None))


def trained_as(stages: Mapping[str, Stage], reference: str) -> Stage | None:
    """The stage that a `stage:NAME` names; of a merged model, the one that its first model is from."""
    stage = stages.get(referenced_stage(reference) or "")
    for _ in stages:  # Bounded, for what is not checked yet may name itself.
        if not isinstance(stage, MergeStage):
            break
        stage = stages.get(referenced_stage(stage.models[0]) or "")
    return stage


def needed_for(recipe: Recipe, names: Iterable[str]) -> list[str]:
    """Some stages and all that they take something from, in the order of the recipe."""
    needed, left = set[str](), list(names)
    while left:
        name = left.pop()
        if name not in needed:
            needed.add(name)
            left += referenced_stages(recipe.stages[name])
    return [name for name in recipe.stages if name in needed]


def resolved(stage: AnyStage, rewrite: Callable[[str], str]) -> AnyStage:
    """The stage with every reference replaced by what `rewrite` makes of it."""
    return type(stage).model_validate(_rewritten(stage.model_dump(mode="json"), rewrite))


def expanded(value: str) -> str:
    """A path with `~` replaced by the home folder, or that of a shipped prompt; else as it is."""
    return str(local_paths.expanded(value)) if value.startswith("~") else beside_recipes(value)


def _rewritten(
    value: Any,
    rewrite: Callable[[str], str],
    *,
    is_reference: bool = False,
    has_names: bool = False,
) -> Any:
    if isinstance(value, dict):
        # What is written out in place of a name, such as a task's definition, is no name.
        if is_reference:
            return value
        return {
            key: _rewritten(
                item,
                rewrite,
                is_reference=not has_names and key in REFERENCE_FIELDS,
                has_names=not has_names and key in NAMING_FIELDS,
            )
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_rewritten(item, rewrite, is_reference=is_reference) for item in value]
    return rewrite(value) if is_reference and isinstance(value, str) else value
