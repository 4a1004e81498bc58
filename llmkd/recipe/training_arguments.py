"""Checks a `trainer` block against `transformers.TrainingArguments` without importing it.

Importing transformers takes seconds and torch; its source is read instead.
"""

import ast
import functools
import importlib.util
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmkd.errors import LlmkdError
from llmkd.recipe.foreign_names import FOREIGN_NAMES
from llmkd.recipe.places import meant, nearest
from llmkd.recipe.values import shown, truth, unquoted

_EVALUATE = "training measures nothing; write a stage of kind evaluate"
_LEAVE_OUT = "llmkd sets it; leave it out"

DEFAULTS: dict[str, Any] = {
    "report_to": "none",
    "logging_steps": 10,
    "save_steps": 0.1,
    "save_total_limit": 2,
    "hub_strategy": "end",
    # A NaN belongs in the log, not replaced by the last mean.
    "logging_nan_inf_filter": False,
}
"""Where llmkd's defaults differ from transformers'; a recipe's own values win."""

# What llmkd owns, and what to write instead.
OWNED = {
    "output_dir": "the run folder holds everything; write `output_dir` at the top of the recipe",
    "overwrite_output_dir": "nothing is overwritten unless asked; write the stage's `resume: never`",
    "seed": "a run has one seed; write `seed` at the top of the recipe",
    "data_seed": "a run has one seed; write `seed` at the top of the recipe",
    "resume_from_checkpoint": "write the stage's `resume`: auto, never or a path",
    "do_train": "a stage of kind train trains; leave it out",
    "do_eval": _EVALUATE,
    "do_predict": _EVALUATE,
    "eval_strategy": _EVALUATE,
    "evaluation_strategy": _EVALUATE,
    "eval_steps": _EVALUATE,
    "eval_delay": _EVALUATE,
    "eval_on_start": _EVALUATE,
    "eval_accumulation_steps": _EVALUATE,
    "eval_do_concat_batches": _EVALUATE,
    "eval_use_gather_object": _EVALUATE,
    "per_device_eval_batch_size": _EVALUATE,
    "batch_eval_metrics": _EVALUATE,
    "include_for_metrics": _EVALUATE,
    "prediction_loss_only": _EVALUATE,
    "load_best_model_at_end": f"{_EVALUATE}, or train for fewer steps",
    "metric_for_best_model": _EVALUATE,
    "greater_is_better": _EVALUATE,
    "remove_unused_columns": _LEAVE_OUT,
    "label_names": _LEAVE_OUT,
    "average_tokens_across_devices": "the loss always is per token over all devices; leave it out",
    "label_smoothing_factor": "the loss is what `losses` says; leave it out",
    "neftune_noise_alpha": "noise would reach the student alone; leave it out",
    "dataloader_drop_last": "every row is trained on; leave it out",
    "save_only_model": "a run must be able to resume; leave it out",
    "hub_strategy": "the finished model is uploaded once; leave it out",
    "hub_token": "a recipe is copied into the run folder; log in with `hf auth login` or HF_TOKEN",
    "disable_tqdm": "write `--quiet` on the command line",
    "local_rank": "the launcher sets it; leave it out",
}

# Name -> (what it must be, whether a value is, the same for a JSON schema).
_POSITIVE = ("greater than 0", lambda value: value > 0, {"exclusiveMinimum": 0})
_NOT_NEGATIVE = ("0 or greater", lambda value: value >= 0, {"minimum": 0})
_BELOW_ONE = (
    "from 0 to below 1",
    lambda value: 0 <= value < 1,
    {"minimum": 0, "exclusiveMaximum": 1},
)
_STEPS = (
    "greater than 0, or -1 for none",
    lambda value: value > 0 or value == -1,
    {"anyOf": [{"exclusiveMinimum": 0}, {"const": -1}]},
)
_RANGES = {
    "learning_rate": _POSITIVE,
    "per_device_train_batch_size": _POSITIVE,
    "gradient_accumulation_steps": _POSITIVE,
    "num_train_epochs": _POSITIVE,
    "max_steps": _STEPS,
    "logging_steps": _POSITIVE,
    "save_steps": _POSITIVE,
    "save_total_limit": _POSITIVE,
    "warmup_steps": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "max_grad_norm": _NOT_NEGATIVE,
    "adam_beta1": _BELOW_ONE,
    "adam_beta2": _BELOW_ONE,
    "adam_epsilon": _POSITIVE,
    "dataloader_num_workers": _NOT_NEGATIVE,
    # Of TRL's GRPOConfig.
    "generation_batch_size": _POSITIVE,
    "max_completion_length": _POSITIVE,
    "num_generations": ("2 or more", lambda value: value >= 2, {"minimum": 2}),
    "num_iterations": _POSITIVE,
    "steps_per_generation": _POSITIVE,
    "temperature": _POSITIVE,
    "beta": _NOT_NEGATIVE,
}

_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "None": (type(None),),
    "list": (list,),
    "dict": (dict,),
}
_WORDS = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "text"}
_WORDS |= {"None": "null", "list": "a list", "dict": "a mapping"}


@dataclass(frozen=True)
class Argument:
    """One field of TrainingArguments."""

    types: tuple[str, ...]
    """Names of the YAML types that it takes; empty where the source does not tell."""
    choices: tuple[str, ...]
    """The words that it takes; empty where any text will do."""
    default: Any = None
    """transformers' default, where its source says it as a plain value."""
    help: str = ""
    """transformers' own words for it."""


@dataclass(frozen=True)
class TrainerBlock:
    """What a stage's `trainer` block may hold."""

    known: Callable[[], Mapping[str, Argument]]
    """The names, with what each takes."""
    owned: Mapping[str, str]
    """Those of them that llmkd sets, with what to write instead."""
    defaults: Mapping[str, Any]
    """llmkd's own defaults."""
    whose: str
    """The class whose fields they are."""


def trainer_problems(block: Mapping[str, Any], kind: TrainerBlock) -> Iterator[tuple[str, str]]:
    """Each name in a `trainer` block that is wrong, and why."""
    for name, value in block.items():
        problem = _problem(name, value, kind)
        if problem:
            yield name, problem
    for name, (is_bad, message) in _REFUSED.items():
        if name in block and is_bad(block[name]):
            yield name, message
    if message := _tracker_problem(block.get("report_to")):
        yield "report_to", message
    if block.get("bf16") is True and block.get("fp16") is True:
        yield "fp16", "bf16 is true too, and only one can be; leave one out"


def _is_broken_count(value: Any) -> bool:
    return isinstance(value, float) and value >= 1 and not value.is_integer()


_A_SHARE_OR_STEPS = (
    _is_broken_count,
    "a share of all steps is below 1, and anything else a whole number of steps; write one of them",
)
_BATCHES = {"split_batches", "dispatch_batches", "even_batches"}
_REFUSED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "save_steps": _A_SHARE_OR_STEPS,
    "logging_steps": _A_SHARE_OR_STEPS,
    "save_strategy": (
        lambda value: value == "best",
        "training measures nothing by which one could be best; write steps, epoch or no",
    ),
    "max_completion_length": (
        lambda value: value is None,
        "responses have to end somewhere; write the most tokens of one",
    ),
    "num_generations": (
        lambda value: value is None,
        "a response is compared with others to its prompt; write 2 or more",
    ),
    "fsdp": (bool, "an engine is not the recipe's; leave it out, and write --launch fsdp2"),
    "accelerator_config": (
        lambda value: (
            isinstance(value, str) or (isinstance(value, dict) and not _BATCHES.isdisjoint(value))
        ),
        f"llmkd says how rows are shared; write a mapping without {', '.join(sorted(_BATCHES))}",
    ),
}
"""Values that transformers takes, or refuses only when training begins; and what to write."""


def _tracker_problem(report_to: Any) -> str | None:
    names = report_to if isinstance(report_to, list) else [report_to]
    known = ["none", "all", *_trackers()] if report_to is not None else []
    for name in names if len(known) > 2 else ():
        if isinstance(report_to, list) and not isinstance(name, str):
            return f"input should be the name of a tracker; got {shown(name)}; {meant('', known)}"
        if isinstance(name, str) and name not in known:
            return f"no such tracker {shown(name)}; {meant(name, known)}"
    return None


@functools.cache
def _trackers() -> list[str]:
    """The trackers that the installed transformers knows, from its source."""
    source = _folder() / "integrations" / "integration_utils.py"
    text = source.read_text(encoding="utf-8") if source.is_file() else ""
    table = re.search(r"^INTEGRATION_TO_CALLBACK = \{(.*?)\}", text, re.DOTALL | re.MULTILINE)
    return re.findall(r'"(\w+)":', table[1]) if table else []


def _problem(name: str, value: Any, kind: TrainerBlock) -> str | None:
    known = kind.known()
    if name in kind.owned:
        return f"not taken here: {kind.owned[name]}"
    if name not in known:
        return f"no such training argument; {_suggestion(name, kind)}"
    argument = known[name]
    if argument.types and not any(_is_of(value, kind) for kind in argument.types):
        wanted = " or ".join(_WORDS[kind] for kind in argument.types)
        return f"input should be {wanted}; got {shown(value)}{_hint(value, argument.types)}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"input should be a finite number; got {shown(value)}"
    if isinstance(value, str) and argument.choices and value not in argument.choices:
        near = nearest(value, argument.choices)
        hint = f"did you mean `{near}`?" if near else f"write one of {', '.join(argument.choices)}"
        return f"no such choice {shown(value)}; {hint}"
    if name in _RANGES and isinstance(value, int | float) and not isinstance(value, bool):
        wanted, is_within, _ = _RANGES[name]
        return None if is_within(value) else f"input should be {wanted}; got {shown(value)}"
    return None


def _suggestion(name: str, kind: TrainerBlock) -> str:
    if FOREIGN_NAMES.get(name) in kind.known():
        return f"llmkd calls it `{FOREIGN_NAMES[name]}`"
    near = nearest(name, [candidate for candidate in kind.known() if candidate not in kind.owned])
    return f"did you mean `{near}`?" if near else f"see {kind.whose}"


def _hint(value: Any, types: tuple[str, ...]) -> str:
    if "bool" in types:
        return truth(value)
    numbers = tuple(kind for name in types if name in ("int", "float") for kind in _TYPES[name])
    return unquoted(value, numbers) if numbers else ""


def _is_of(value: Any, kind: str) -> bool:
    return isinstance(value, _TYPES[kind]) and (kind == "bool" or not isinstance(value, bool))


@functools.cache
def training_arguments() -> dict[str, Argument]:
    """The fields of the installed `transformers.TrainingArguments`, from its source."""
    folder = _folder()
    return fields_of("TrainingArguments", folder / "trainer_utils.py", folder / "training_args.py")


TRAINING = TrainerBlock(training_arguments, OWNED, DEFAULTS, "transformers.TrainingArguments")
"""Of a train stage."""


def fields_of(name: str, *sources: Path) -> dict[str, Argument]:
    """The fields that a dataclass itself has, read from its source and that of the enums it uses."""
    nodes = (node for path in sources for node in ast.parse(path.read_text(encoding="utf-8")).body)
    classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
    return {
        statement.target.id: _argument(statement, classes)
        for statement in classes[name].body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }


def _folder() -> Path:
    folder = package_folder("transformers")
    if folder is None:
        raise LlmkdError("transformers is not installed; run pip install llmkd again")
    return folder


def package_folder(name: str) -> Path | None:
    """Where an installed package is, found without importing it; None where it is not installed."""
    spec = importlib.util.find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def limits(name: str) -> dict[str, Any]:
    """The range of a training argument, as keywords of a JSON schema; empty where it has none."""
    return dict(_RANGES[name][2]) if name in _RANGES else {}


def effective(trainer: Mapping[str, Any], kind: TrainerBlock = TRAINING) -> dict[str, Any]:
    """All training arguments: a recipe's own, else llmkd's defaults, else those of their class."""
    defaults = {name: argument.default for name, argument in kind.known().items()}
    return {**defaults, **kind.defaults, **trainer}


def _argument(statement: ast.AnnAssign, classes: Mapping[str, ast.ClassDef]) -> Argument:
    names = [ast.unparse(part).split("[")[0] for part in _alternatives(statement.annotation)]
    enums = [name for name in names if name in classes and "str" in names]
    types = tuple(name for name in names if name not in enums)
    choices = tuple(value for name in enums for value in _enum_values(classes[name]))
    written = {}
    if isinstance(statement.value, ast.Call):
        written = {word.arg: _literal(word.value) for word in statement.value.keywords}
    said = written.get("metadata")
    said = said if isinstance(said, dict) else {}
    return Argument(
        types if all(name in _TYPES for name in types) else (),
        choices or tuple(map(str, said.get("choices", ()))),
        written.get("default"),
        str(said.get("help", "")),
    )


def _literal(value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError:
        return None


def _alternatives(annotation: ast.expr) -> list[ast.expr]:
    if isinstance(annotation, ast.BinOp):
        return [*_alternatives(annotation.left), *_alternatives(annotation.right)]
    return [annotation]


def _enum_values(enum: ast.ClassDef) -> Iterator[str]:
    for statement in enum.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
            yield str(statement.value.value)
