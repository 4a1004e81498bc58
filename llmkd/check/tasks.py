"""What is known of procedural tasks before a run makes their rows."""

from llmkd.check.facts import Fact
from llmkd.check.rows import MOST_SAMPLED_ROWS
from llmkd.data.intents import make_named_rows, refuse_too_many
from llmkd.errors import DataError
from llmkd.recipe.data import AdditionTask, IntentTask, NamedIntentTask

NOT_CUT = Fact(0.0, "exact", "a task is not cut", "share")

# As llmkd.data.addition splits them; with more digits there are more than one may ask for.
NUM_SUMS = {
    1: {"train": 41, "unlabelled": 40, "validation": 11, "test": 8},
    2: {"train": 3_994, "unlabelled": 4_105, "validation": 958, "test": 943},
    3: {"train": 399_538, "unlabelled": 400_323, "validation": 99_912, "test": 100_227},
}
MOST_SUMS = 5_000_000


def num_sums(task: AdditionTask) -> Fact:
    """How many sums a task makes.

    Raises:
        DataError: More are asked for than there are.
    """
    most = NUM_SUMS.get(task.digits, {}).get(task.split, MOST_SUMS)
    if task.num_examples > most:
        raise DataError(
            "num_examples",
            f"{task.num_examples} sums of {task.digits} digits were asked for, and split "
            f"{task.split} gives {most} at most; write num_examples: {most} or less",
        )
    return Fact(task.num_examples, "exact", "data.num_examples")


def example_of(task: AdditionTask) -> tuple[str, str]:
    """The prompt and the completion of one sum; all have the same form."""
    zeros = "0" * task.digits
    steps = "0+0+0=00;" * task.digits + "#" if task.steps == "completion" else ""
    return f"{task.prompt_prefix}{zeros}+{zeros}=", f"{steps}{zeros}0"


def num_requests(task: IntentTask | NamedIntentTask) -> Fact:
    """How many requests a task makes.

    Raises:
        DataError: More are asked for than there are.
    """
    refuse_too_many(task)
    return Fact(task.num_examples, "exact", "data.num_examples")


def first_requests(task: NamedIntentTask) -> list[dict[str, str]]:
    """Rows of the task, of some seed."""
    few = min(task.num_examples, MOST_SAMPLED_ROWS)
    return make_named_rows(task.model_copy(update={"num_examples": few}), seed=0)
