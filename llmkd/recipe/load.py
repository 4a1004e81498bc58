"""From a recipe's file and overrides to a checked Recipe, or to all that is wrong with it."""

import contextlib
import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from llmkd.errors import InputError
from llmkd.recipe.base import RecipePart
from llmkd.recipe.classification_checks import kind_problems
from llmkd.recipe.cross_checks import (
    part_problems,
    reference_problems,
    results_problems,
    stage_problems,
)
from llmkd.recipe.evaluation import Suite
from llmkd.recipe.evaluation_checks import suite_use_problems
from llmkd.recipe.grpo_arguments import TRAINER_BLOCKS
from llmkd.recipe.overrides import apply_overrides
from llmkd.recipe.places import Problem, Source
from llmkd.recipe.problems import problems_of
from llmkd.recipe.regression_checks import regression_problems
from llmkd.recipe.schema import STAGE_MODELS, EvaluateStage, Recipe, Stage
from llmkd.recipe.schema_walk import kinds
from llmkd.recipe.shipped import find_recipe, find_suite
from llmkd.recipe.training_arguments import trainer_problems
from llmkd.recipe.yaml_places import Key, dotted, read_file
from llmkd.secrets import masked

Part = TypeVar("Part", bound=RecipePart)


def load(path_or_name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe and checks all that can be checked without a model.

    Args:
        path_or_name: A YAML file, or the name of a shipped recipe.
        overrides: `key=value` each, with dotted keys and lists by index.

    Raises:
        InputError: With every problem, each with its place and what to write instead.
    """
    return load_with_source(path_or_name, overrides)[0]


def load_with_source(
    path_or_name: str | Path, overrides: Sequence[str] = ()
) -> tuple[Recipe, Source]:
    """As `load`, and the source, which knows where each value comes from (`Source.origin`)."""
    path = find_recipe(path_or_name)
    document = read_file(path)
    _refuse_stage_prefix(document.value, overrides)
    written, applied = apply_overrides(document.value, overrides)
    data, prefix = _with_stages(written)
    source = Source(str(path), document.lines, applied, prefix, written)
    recipe, problems, others = _checked(data)
    if recipe is None or problems or others:
        raise source.error(problems, others)
    return recipe, source


def checked_recipe(data: Mapping[str, Any]) -> Recipe:
    """As `load`, of plain data that is in no file.

    Raises:
        InputError: With every problem.
    """
    recipe, problems, others = _checked(dict(data))
    if recipe is None or problems or others:
        raise InputError([*(f"{dotted(one.key)}: {one.message}" for one in problems), *others])
    return recipe


def _checked(data: dict[str, Any]) -> tuple[Recipe | None, list[Problem], list[str]]:
    """The recipe, what is wrong with it, and what is wrong with suites that it names."""
    recipe, problems = _validated(Recipe, data)
    stages = _valid_stages(data) if recipe is None else recipe.stages
    problems += _trainer_problems(data)
    problems += stage_problems(stages, _kinds(data))
    others: list[str] = []
    suites = {
        name: (stage.models, stage.suite)
        for name, stage in stages.items()
        if isinstance(stage, EvaluateStage) and isinstance(stage.suite, Suite)
    }
    for name, stage in stages.items():
        if isinstance(stage, EvaluateStage) and isinstance(stage.suite, str):
            key = ("stages", name, "suite")
            suite = _suite(stage.suite, key, problems, others)
            if suite is not None:
                suites[name] = (stage.models, suite)
                found = reference_problems(suite, (), name, _kinds(data))
                problems += [Problem(key, f"{dotted(p.key)}: {p.message}") for p in found]
    named = {name: suite for name, (_, suite) in suites.items()}
    problems += kind_problems(stages, named)
    problems += regression_problems(stages, named)
    problems += suite_use_problems(stages, named)
    problems += results_problems({name: suites[name] for name in stages if name in suites})
    return recipe, problems, others


def load_part(path: str | Path, model: type[Part]) -> Part:
    """Reads a YAML file that holds one part of a recipe, such as a suite.

    Raises:
        InputError: With every problem, each with its place and what to write instead.
    """
    path = Path(path)
    document = read_file(path)
    part, problems = _validated(model, document.value)
    if part is not None:
        problems += part_problems(part)
    if part is None or problems:
        raise Source(str(path), document.lines).error(problems)
    return part


def checked_part(data: Mapping[str, Any], model: type[Part], place: str) -> Part:
    """A part of a recipe from plain data.

    Args:
        data: Its content.
        model: What it is.
        place: Where the content comes from, for errors.

    Raises:
        InputError: With every problem.
    """
    part, problems = _validated(model, dict(data))
    if part is not None:
        problems += part_problems(part)
    if part is None or problems:
        raise InputError([f"{place}: {dotted(one.key)}: {one.message}" for one in problems])
    return part


def _suite(name: str, key: Key, problems: list[Problem], others: list[str]) -> Suite | None:
    """The suite; what is wrong with it goes to `others`, and with its name to `problems`."""
    try:
        path = find_suite(name)
    except InputError as error:
        problems.append(Problem(key, str(error)))
        return None
    try:
        return load_part(path, Suite)
    except InputError as error:
        others.extend(error.problems)
        return None


def _validated(model: type[Part], data: Any) -> tuple[Part | None, list[Problem]]:
    try:
        return model.model_validate_json(json.dumps(data)), []
    except ValidationError as error:
        return None, problems_of(error, model, data)


def _with_stages(data: dict[str, Any]) -> tuple[dict[str, Any], Key]:
    """Moves a single stage's keys from the top to `stages.KIND`, and says that key."""
    own = {name: value for name, value in data.items() if name in Recipe.model_fields}
    stage = {name: value for name, value in data.items() if name not in own}
    stage_fields = {name for model in STAGE_MODELS for name in model.model_fields}
    if "stages" in data or not stage_fields.intersection(stage):
        return data, ()
    kind = stage.get("kind")
    known = [known for model in STAGE_MODELS for known in kinds(model)]
    name = kind if isinstance(kind, str) and kind in known else "stage"
    return {**own, "stages": {name: stage}}, ("stages", name)


def _refuse_stage_prefix(written: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """A recipe with its one stage at the top has no `stages` for an override to reach into."""
    if _with_stages(dict(written))[1]:
        problems = [
            f"override {masked(text)}: this recipe's one stage stands at its top; leave out `stages.NAME.`"
            for text in overrides
            if text.startswith("stages.")
        ]
        if problems:
            raise InputError(problems)


def _raw_stages(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    stages = data.get("stages")
    named = stages.items() if isinstance(stages, dict) else ()
    return {name: stage for name, stage in named if isinstance(stage, dict)}


def _kinds(data: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(stage.get("kind")) for name, stage in _raw_stages(data).items()}


def _valid_stages(data: Mapping[str, Any]) -> dict[str, Stage]:
    """The stages that hold by themselves, so that they too are checked in the first go."""
    adapter: TypeAdapter[Stage] = TypeAdapter(Stage)
    valid: dict[str, Stage] = {}
    for name, stage in _raw_stages(data).items():
        try:
            valid[name] = adapter.validate_json(json.dumps(stage))
        except ValidationError as error:
            if known := _known_fields(stage, error):
                with contextlib.suppress(ValidationError):
                    valid[name] = adapter.validate_json(json.dumps(known))
    return valid


def _known_fields(stage: dict[str, Any], error: ValidationError) -> dict[str, Any] | None:
    """A stage without the keys that the schema does not have; None where more is wrong."""
    wrong = error.errors(include_url=False)
    if any(details["type"] != "extra_forbidden" for details in wrong):
        return None
    known = copy.deepcopy(stage)
    for details in wrong:
        *around, name = details["loc"]
        _inside(known, around).pop(name, None)
    return known


def _inside(value: Any, around: Sequence[int | str]) -> dict[int | str, Any]:
    """The mapping at one of pydantic's places, which hold the tags of unions too."""
    for part in around:
        match value:
            case list() if isinstance(part, int):
                value = value[part]
            case dict() if part in value:
                value = value[part]
    return value if isinstance(value, dict) else {}


def _trainer_problems(data: Mapping[str, Any]) -> list[Problem]:
    return [
        Problem(("stages", name, "trainer", argument), message)
        for name, stage in _raw_stages(data).items()
        if (block := TRAINER_BLOCKS.get(str(stage.get("kind")))) is not None
        if isinstance(stage.get("trainer"), dict)
        for argument, message in trainer_problems(stage["trainer"], block)
    ]
