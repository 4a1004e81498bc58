"""What is known of out-of-distribution rows before a run reads them."""

from llmkd.check.facts import Fact, value_of
from llmkd.check.labels import labelled_facts, num_labelled_rows
from llmkd.check.prompts import prompt_length, prompt_rows
from llmkd.check.rows import read_rows
from llmkd.check.vocabulary import Tokenizer
from llmkd.data.columns import Need
from llmkd.recipe.data import CompletionTask, LabelledRows, Task
from llmkd.recipe.ood import OODTask


def num_ood_rows(task: OODTask) -> Fact:
    """How many rows there are, in distribution and out of it.

    Raises:
        DataError: No run could measure them.
        NotKnownError: They are not on this machine.
    """
    counts = [_num_rows(source, need) for source, need in _sources(task)]
    exactness = "exact" if all(rows.exactness == "exact" for rows in counts) else "estimate"
    return Fact(sum(map(value_of, counts)), exactness, "in distribution and out of it")


def longest_ood_row(task: OODTask, tokenizer: Tokenizer | str) -> Fact:
    """Tokens of the longest row.

    Raises:
        DataError: No run could measure them.
        NotKnownError: They are not on this machine.
    """
    lengths = [
        prompt_length(source, tokenizer)
        if isinstance(source, CompletionTask)
        else labelled_facts(source, tokenizer, need).longest
        for source, need in _sources(task)
    ]
    return max(lengths, key=value_of)


def _sources(task: OODTask) -> list[tuple[Task | LabelledRows, Need]]:
    if task.out_data is None:
        return [(task.data, "labelled")]
    return [(task.data, "texts"), (task.out_data, "texts")]


def _num_rows(source: Task | LabelledRows, need: Need) -> Fact:
    if isinstance(source, CompletionTask):
        return prompt_rows(source)
    local = read_rows(source, need) if isinstance(source, LabelledRows) else None
    return num_labelled_rows(source, local)
