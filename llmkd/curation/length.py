"""`length`: rows that are neither too short nor too long."""

from llmkd.curation.rows import completion_of, question_of
from llmkd.curation.tally import Row, Stream, Tally, judged
from llmkd.recipe.curation_steps import LengthStep


def length(rows: Stream, step: LengthStep, tally: Tally) -> Stream:
    """Rows within the bounds, which are inclusive."""

    def judge(row: Row) -> Row | str:
        text = completion_of(row) if step.of == "completion" else question_of(row)
        num_units = len(text.split()) if step.unit == "words" else len(text)
        if num_units < step.min_length:
            return "too short"
        is_long = step.max_length is not None and num_units > step.max_length
        return "too long" if is_long else row

    return judged(rows, judge, tally)
