"""A task as lm-eval holds it: its own definition, with what a suite changes in it."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import jinja2
import yaml
from datasets.exceptions import DatasetNotFoundError
from jinja2.sandbox import SandboxedEnvironment
from lm_eval import utils
from lm_eval.api.registry import metric_registry
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

# The one name without a public way: how lm-eval reads a task's file with all that it includes.
from lm_eval.tasks._yaml_loader import load_yaml

from llmkd.errors import DataError, InputError
from llmkd.evaluation.harness.definitions import find_definition
from llmkd.evaluation.harness.rows import FEWSHOT, ROWS, at, read_splits
from llmkd.recipe.harness import LMEvalTask

Config = dict[str, Any]

# lm-eval's own environment lets a template call whatever Python has.
_sandbox = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
_sandbox.filters.update(utils.env.filters)
utils.env = _sandbox


def load_task(task: LMEvalTask, *, seed: int) -> ConfigurableTask:
    """The task with its rows read.

    Args:
        task: What a suite says of it.
        seed: Decides the few-shot examples.

    Raises:
        InputError: lm-eval has no such task, or its rows cannot be read or lack a column.
    """
    config = _definition(task)
    if config.get("unsafe_code"):
        raise InputError(f"task: {task.task_name} runs code that the model writes; leave it out")
    if task.num_fewshot is not None:
        config["num_fewshot"] = task.num_fewshot
    if task.data.dataset_name is not None:
        config |= _local_rows(task, config)
    loaded = _loaded(task, config)
    if loaded.get_config("output_type") == "generate_until" and task.generation_kwargs:
        loaded.set_config("generation_kwargs", dict(task.generation_kwargs), update=True)
    if loaded.get_config("num_fewshot") is None:
        loaded.set_config("num_fewshot", 0)
    loaded.set_fewshot_seed(seed)
    _refuse_unknown_answers(loaded, task)
    if task.exact_match_by:
        _refuse_without_questions(loaded, task)
    return loaded


def _definition(task: LMEvalTask) -> Config:
    if isinstance(task.definition, dict):
        _refuse_code(task.definition)
        # lm-eval changes what it is given.
        return {**deepcopy(task.definition), "task": task.task_name}
    if task.definition is None:
        return load_yaml(find_definition(task.task_name))
    path = Path(task.definition).expanduser()
    if not path.is_file():
        raise InputError(f"definition: there is no file {path}; write the path of a task's YAML")
    try:
        return {**load_yaml(path), "task": task.task_name}
    except (OSError, ValueError, yaml.YAMLError, ImportError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"definition: {path} cannot be read ({reason}); mend it, or what it includes or takes "
            "functions from"
        ) from error


def _refuse_code(definition: Config) -> None:
    """Refuses what a definition that is written out has from elsewhere, where it may be code."""
    if "use_prompt" in definition:
        raise InputError("definition.use_prompt: not taken here; write doc_to_text")
    for number, metric in enumerate(definition.get("metric_list") or []):
        known = isinstance(metric, dict) and str(metric.get("metric")) in metric_registry
        if not known or metric.get("hf_evaluate"):
            raise InputError(
                f"definition.metric_list.{number}: lm-eval has no such metric, and would run a Python "
                f"file of that name; write one of {', '.join(sorted(metric_registry))}"
            )


def _local_rows(task: LMEvalTask, config: Config) -> Config:
    """Has lm-eval read local rows, and take other rows of theirs as few-shot examples.

    Where rows and few-shot examples come from one split, lm-eval itself leaves the row out that is
    being asked.
    """
    if "class" in config:
        raise InputError(
            f"task: lm-eval's {task.task_name} is written in Python and reads its own data; "
            "write data.dataset_name: null"
        )
    splits = read_splits(task.data)
    few = FEWSHOT if FEWSHOT in splits else ROWS
    _refuse_too_few(task, len(splits[few]) - (few == ROWS))
    found = {
        "custom_dataset": lambda **_: splits,
        "test_split": ROWS,
        "validation_split": None,
        "training_split": None,
    }
    fixed = config.get("fewshot_config") or {}
    if "samples" in fixed:
        return found
    # What a few-shot configuration says of its split goes before `fewshot_split`.
    return {**found, "fewshot_split": few, "fewshot_config": {**fixed, "split": few}}


def _refuse_too_few(task: LMEvalTask, num_rows: int) -> None:
    if (task.num_fewshot or 0) > num_rows:
        raise InputError(
            f"num_fewshot: {task.num_fewshot} examples, and there are {num_rows} rows to take them "
            f"from; write at most {num_rows}, or name more in data.fewshot_name"
        )


def _loaded(task: LMEvalTask, config: Config) -> ConfigurableTask:
    manager = TaskManager(include_defaults=False)
    try:
        loaded: Any
        (loaded,) = manager.load([config])["tasks"].values()
    except (KeyError, jinja2.UndefinedError) as error:
        raise DataError("columns", _missing(task, error)) from error
    except jinja2.exceptions.SecurityError as error:
        raise InputError(
            f"definition: a template reaches into Python ({error}); leave that out"
        ) from error
    except IndexError as error:
        raise _no_choice(1, "its number", "that it has") from error
    except (DatasetNotFoundError, ConnectionError, OSError, ValueError) as error:
        if task.data.dataset_name is not None or isinstance(error, InputError):
            raise
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            "dataset_name",
            f"the hub does not give {config.get('dataset_path')}, the data of lm-eval's "
            f"{task.task_name} ({reason}); write the path of a file, or --data {task.name}=FILE",
        ) from error
    return loaded


def _missing(task: LMEvalTask, error: Exception) -> str:
    name = error.args[0] if isinstance(error, KeyError) else str(error)
    return (
        f"lm-eval's {task.task_name} needs what the rows do not have: {name}; rename a column, or "
        "say which is which by data.columns: {NAME: COLUMN}"
    )


def _refuse_unknown_answers(loaded: ConfigurableTask, task: LMEvalTask) -> None:
    """A label that is no choice would count as a wrong answer."""
    is_graded_so = loaded.get_config("process_results") is None and not loaded.multiple_input
    if loaded.OUTPUT_TYPE != "multiple_choice" or not is_graded_so:
        return
    docs: Any = loaded.eval_docs
    for number, doc in enumerate(docs, 1):
        if number > (task.data.num_examples or number):
            return
        answer, choices = loaded.doc_to_target(doc), loaded.doc_to_choice(doc)
        answers = answer if isinstance(answer, list) else [answer]
        if not all(_is_choice(one, choices) for one in answers):
            raise _no_choice(number, repr(answer), choices)


def _refuse_without_questions(loaded: ConfigurableTask, task: LMEvalTask) -> None:
    if loaded.OUTPUT_TYPE != "multiple_choice" or "em" in loaded.aggregation():
        raise InputError(
            "exact_match_by: is for tasks that choose between answers, and have no metric `em` of "
            "their own; leave it out"
        )
    docs: Any = loaded.eval_docs
    for number, doc in enumerate(docs, 1):
        for column in task.exact_match_by:
            if at(doc, column) is None:
                raise DataError(
                    "columns",
                    f"row {number} has no {column}, which tells the questions apart; write data.columns: "
                    f"{{{column}: COLUMN}}, or --columns {task.name}.{column}=COLUMN",
                )


def _no_choice(number: int, answer: str, choices: Any) -> DataError:
    return DataError(
        "dataset_name",
        f"row {number}: the answer, {answer}, is none of the choices {choices}; write one there (or "
        "its number, from 0), or leave the row out",
    )


def _is_choice(answer: Any, choices: list[str]) -> bool:
    if isinstance(answer, int):
        return 0 <= answer < len(choices)
    return answer in choices
