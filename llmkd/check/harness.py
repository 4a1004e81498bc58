"""What is known of a task of lm-eval before it runs. Imports no lm-eval."""

from importlib.util import find_spec

from llmkd.check.facts import Fact, NotKnownError, value_of
from llmkd.check.rows import count_rows
from llmkd.errors import DataError, InputError
from llmkd.evaluation.harness.definitions import find_definition
from llmkd.recipe.data import DatasetFiles
from llmkd.recipe.harness import LMEvalTask


def refuse_unknown_task(task: LMEvalTask) -> None:
    """Refuses a task that lm-eval does not have, where lm-eval is installed.

    Raises:
        DataError: It has none of this name; says which one is near.
    """
    if task.definition is not None or find_spec("lm_eval") is None:
        return
    try:
        find_definition(task.task_name)
    except InputError as error:
        raise DataError("dataset_name", str(error)) from error


def harness_rows(task: LMEvalTask) -> Fact:
    """How many rows are measured.

    Raises:
        NotKnownError: They are not on this machine.
        DataError: There are none.
    """
    most = task.data.num_examples
    if task.data.dataset_name is None:
        raise NotKnownError("the hub data set that lm-eval names")
    rows = count_rows(DatasetFiles(dataset_name=task.data.dataset_name))
    return rows if most is None or value_of(rows) < most else Fact(most, "exact", "num_examples")


def harness_length(task: LMEvalTask) -> Fact:
    """Tokens of the longest prompt, which lm-eval makes."""
    raise NotKnownError(f"the prompts of {task.name} are made by lm-eval")
