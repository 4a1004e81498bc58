"""`verify`: the answer of each completion against the right one."""

from llmkd.curation.answers import Answers, reference_of
from llmkd.curation.rows import column, completion_of
from llmkd.curation.tally import Row, Stream, Tally, judged
from llmkd.recipe.curation_steps import VerifyStep

WRONG, NO_ANSWER = "wrong", "no answer"


def verify(rows: Stream, step: VerifyStep, answers: Answers, tally: Tally) -> Stream:
    """Rows whose answer is right; or all of them, with a column `is_right`."""

    def judge(row: Row) -> Row | str:
        reference = reference_of(column(row, step.reference, "reference"), "reference")
        grade = answers.grade(row, completion_of(row), reference)
        verdict = "right" if grade.is_right else NO_ANSWER if grade.answer is None else WRONG
        if step.keep == "all":
            tally.counted[verdict] += 1
            return row | {"is_right": grade.is_right}
        return row if grade.is_right else verdict

    return judged(rows, judge, tally)
