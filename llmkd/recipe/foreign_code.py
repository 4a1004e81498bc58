"""The parts of a recipe that run code of its author's, which may do whatever the user may."""

import shlex
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from llmkd.errors import InputError
from llmkd.evaluation.suites import find_suite
from llmkd.recipe.base import RecipePart, parts_of
from llmkd.recipe.curation_steps import VerifyCommandStep
from llmkd.recipe.harness import LMEvalTask
from llmkd.recipe.local_paths import expanded
from llmkd.recipe.models import NamedModel
from llmkd.recipe.rewards import FunctionReward
from llmkd.recipe.schema import EvaluateStage, KDRLStage, Recipe, TrainStage
from llmkd.recipe.yaml_places import Key, dotted


@dataclass(frozen=True)
class ForeignCode:
    """What a recipe runs with `--allow-code` only."""

    key: Key
    """Where the recipe names it."""
    shown: str
    """The program with its arguments, the function, or whose code it is."""
    files: dict[str, str]
    """The paths of its files, each by how it is written."""


def foreign_code(value: RecipePart | list[RecipePart], key: Key = ()) -> list[ForeignCode]:
    """All of it within a stage, or any other part of a recipe, in the order written.

    Args:
        value: What is looked through.
        key: Where it stands.
    """
    return [
        ForeignCode((*place, field), shown, files)
        for place, part in parts_of(value, key)
        for field, shown, files in _of(part)
    ]


def refuse_code(recipe: Recipe, names: Collection[str]) -> None:
    """Refuses stages that run code of the recipe's.

    Args:
        recipe: Whose stages.
        names: Of the stages that are to run.

    Raises:
        InputError: There are such; names all that would run.
    """
    problems = [
        f"{dotted(code.key)}: runs `{code.shown}`; read what it does, and write --allow-code "
        "(allow_code=True in Python), or leave it out"
        for name in names
        for code in foreign_code(recipe.stages[name], ("stages", name))
    ]
    if problems:
        raise InputError(problems)


def _of(part: RecipePart) -> list[tuple[str, str, dict[str, str]]]:
    """Of one part by itself: the field, what is shown, and the files."""
    match part:
        case VerifyCommandStep():
            return [("command", shlex.join(part.command), part.files)]
        case FunctionReward():
            return [("function", part.function, part.files)]
        case NamedModel(trust_remote_code=True):
            return [("trust_remote_code", f"the code of {part.model_name_or_path}", {})]
        case LMEvalTask(definition=str(path)):
            return [("definition", path, {})]
        case EvaluateStage():
            return [*_of_evaluation(part)]
        case TrainStage(resume=path) | KDRLStage(resume=path) if _may_call(path):
            return [("resume", f"what the pickles of {path} call", {})]
        case _:
            return []


def _of_evaluation(stage: EvaluateStage) -> list[tuple[str, str, dict[str, str]]]:
    found: list[tuple[str, str, dict[str, str]]] = []
    if stage.trust_remote_code:
        found.append(("trust_remote_code", f"the code of {', '.join(stage.models)}", {}))
    if isinstance(stage.suite, str):
        found += [
            ("suite", code.shown, code.files) for code in foreign_code(find_suite(stage.suite))
        ]
    return found


def _may_call(path: str) -> bool:
    """Whether a checkpoint has pickles that are read with whatever they call.

    DeepSpeed's `global_step*` and the `.metadata` of torch's sharded checkpoints are; of the others
    transformers takes tensors alone.
    """
    if path in ("auto", "never"):
        return False
    folder = Path(expanded(path))
    return any(folder.glob("global_step*")) or any(folder.glob("*/.metadata"))
