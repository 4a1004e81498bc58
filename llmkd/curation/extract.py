"""`extract`: the answer of each completion in a column of its own."""

from llmkd.curation.answers import Answers
from llmkd.curation.rows import completion_of
from llmkd.curation.tally import Row, Stream, Tally, judged
from llmkd.recipe.curation_steps import ExtractStep


def extract(rows: Stream, step: ExtractStep, answers: Answers, tally: Tally) -> Stream:
    """Rows with their answer, or label, in the step's column."""

    def judge(row: Row) -> Row | str:
        found = answers.found(row, completion_of(row))
        if found is None:
            return "no answer"
        label = answers.label(found)
        return "not one of the labels" if label is None else row | {step.column: label}

    return judged(rows, judge, tally)
