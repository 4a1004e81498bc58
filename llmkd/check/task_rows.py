"""What is known of the rows that a stage makes of a procedural task."""

from typing import TYPE_CHECKING

from llmkd.check.facts import Fact, StageFacts
from llmkd.check.lengths import data_facts
from llmkd.check.row_facts import DataFacts, RowLength, kept_facts
from llmkd.check.rows import MOST_SAMPLED_ROWS
from llmkd.check.vocabulary import tokenizer_of_task
from llmkd.data.chained_sums import make_rows, refuse_too_many
from llmkd.errors import DataError
from llmkd.recipe.places import Problem
from llmkd.recipe.procedural import ChainedSumsTask, TaskRowsStage

if TYPE_CHECKING:
    from llmkd.check.stages import Checker


def task_rows_facts(checker: "Checker", name: str, stage: TaskRowsStage) -> StageFacts:
    """How many rows there will be, and how long they are in the task's own tokens."""
    found = StageFacts(stage.kind)
    try:
        if isinstance(stage.data, ChainedSumsTask):
            data = _of_chained_sums(stage.data)
        else:
            data = data_facts(stage.data, tokenizer_of_task(stage.data), checker.generated_by)
    except DataError as error:
        found.problems.append(Problem(("stages", name, "data", *error.key), error.message))
        return found
    found.facts |= {"rows": data.rows, "longest row": data.longest}
    found.verdict = "fits"
    checker.generated[name] = data
    return found


def _of_chained_sums(task: ChainedSumsTask) -> DataFacts:
    refuse_too_many(task)
    few = task.model_copy(update={"num_examples": min(task.num_examples, MOST_SAMPLED_ROWS)})
    tokens = [len(row["prompt"] + row["completion"]) + 2 for row in make_rows(few, seed=0)]
    how = f"the first {len(tokens)} rows, with the begin and end tokens"
    rows = Fact(task.num_examples, "exact", "data.num_examples")
    lengths = [RowLength(length, length) for length in tokens]
    return kept_facts(lengths, len(lengths), rows, Fact(None, "estimate", how))
