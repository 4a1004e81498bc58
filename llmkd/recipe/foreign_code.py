"""The parts of a recipe that run code of its author's, which may do whatever the user may.

And those that send one of the user's secrets to an address of the author's.
"""

import ipaddress
import json
import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from llmkd.errors import InputError
from llmkd.evaluation.suites import find_suite
from llmkd.recipe.base import RecipePart, parts_of
from llmkd.recipe.curation_steps import VerifyCommandStep
from llmkd.recipe.harness import LMEvalTask
from llmkd.recipe.models import NamedModel, ScratchStudent
from llmkd.recipe.references import expanded
from llmkd.recipe.rewards import FunctionReward
from llmkd.recipe.schema import EvaluateStage, KDRLStage, Recipe, TrainStage
from llmkd.recipe.teacher_data import OWN_VARIABLES, ServerEngine
from llmkd.recipe.yaml_places import Key, dotted

Found = tuple[str, str, dict[str, str]]
"""A field, what is shown, and the files."""
KEY_VARIABLE = "api_key_variable"


@dataclass(frozen=True)
class ForeignCode:
    """What a recipe runs with `--allow-code` only."""

    key: Key
    """Where the recipe names it."""
    shown: str
    """The program with its arguments, the function, or whose code it is."""
    files: dict[str, str]
    """The paths of its files, each by how it is written."""

    @property
    def does(self) -> Literal["runs", "sends"]:
        """What is done with it."""
        return "sends" if self.key[-1] == KEY_VARIABLE else "runs"


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
        f"{dotted(code.key)}: {code.does} `{code.shown}`; {_advice(code)}"
        for name in names
        for code in foreign_code(recipe.stages[name], ("stages", name))
    ]
    if problems:
        raise InputError(problems)


def _advice(code: ForeignCode) -> str:
    if code.does == "sends":
        return (
            f"if that server may have it, set it as a variable whose name begins with {OWN_VARIABLES}, or "
            "write --allow-code (allow_code=True in Python)"
        )
    return "read what it does, and write --allow-code (allow_code=True in Python), or leave it out"


def _of(part: RecipePart) -> list[Found]:
    """Of one part by itself."""
    match part:
        case VerifyCommandStep():
            return [("command", shlex.join(part.command), part.files)]
        case FunctionReward():
            return [("function", part.function, part.files)]
        case NamedModel() | ScratchStudent():
            return [*_of_model(part)]
        case LMEvalTask(definition=str(path)):
            return [("definition", path, {})]
        case ServerEngine(api_key_variable=str(name), base_url=url) if not _may_have(url, name):
            return [(KEY_VARIABLE, f"the environment's {name} to {url}", {})]
        case EvaluateStage():
            return [*_of_evaluation(part)]
        case TrainStage() | KDRLStage():
            return [*_of_training(part)]
        case _:
            return []


def _of_model(model: NamedModel | ScratchStudent) -> Iterator[Found]:
    if isinstance(model, NamedModel) and model.trust_remote_code:
        yield "trust_remote_code", f"the code of {model.model_name_or_path}", {}
    attention = getattr(model, "attn_implementation", None)
    # transformers takes it for a repository of the hub, and loads the program in it.
    if attention and "/" in attention:
        yield "attn_implementation", f"the kernel {attention}", {}


def _may_have(url: str, name: str) -> bool:
    """Whether a server may get a variable unasked: one that is for it, or it is on this machine."""
    if name.startswith(OWN_VARIABLES):
        return True
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _of_training(stage: TrainStage | KDRLStage) -> list[Found]:
    found: list[Found] = []
    if _may_call(stage.resume):
        found.append(("resume", f"what the pickles of {stage.resume} call", {}))
    if modules := ", ".join(imported_by_deepspeed(stage.trainer.get("deepspeed"))):
        found.append(("trainer.deepspeed", f"the modules of {modules}", {}))
    return found


def imported_by_deepspeed(config: Any) -> list[str]:
    """The classes that DeepSpeed finds by importing what is named, but torch's own.

    `torch_autocast.lower_precision_safe_modules` is the only such key of DeepSpeed 0.19.

    Args:
        config: A mapping, a file of JSON, or JSON; as `trainer.deepspeed` has it.
    """
    if isinstance(config, str):
        try:
            is_json = config.lstrip().startswith("{")
            text = config if is_json else Path(expanded(config)).read_text(encoding="utf-8")
            config = json.loads(text)
        except (OSError, ValueError):  # Nothing is read from it then.
            return []
    autocast = config.get("torch_autocast") if isinstance(config, dict) else None
    named = autocast.get("lower_precision_safe_modules") if isinstance(autocast, dict) else None
    # A mapping is gone through by its keys.
    names = named if isinstance(named, list | dict) else []
    return [str(name) for name in names if not str(name).startswith("torch.nn.")]


def _of_evaluation(stage: EvaluateStage) -> list[Found]:
    found: list[Found] = []
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
