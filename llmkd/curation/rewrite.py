"""`rewrite_if_correct`: a teacher's rewrite in place of the original, where the two agree."""

from collections.abc import Sequence

from llmkd.curation.answers import Answers
from llmkd.curation.rows import NUMBER, completion_of, grouped, with_completion
from llmkd.curation.sources import named_rows
from llmkd.curation.tally import Row, StepError, Stream, Tally
from llmkd.recipe.curation_steps import RewriteStep

IS_REWRITTEN = "is_rewritten"


def rewrite(rows: Stream, step: RewriteStep, answers: Answers, tally: Tally) -> Stream:
    """The originals, each with the first rewrite that answers as it does, or with its own answer.

    What comes out has the original's prompt and columns: the prompt that asked for the rewrite shows
    the answer, and is not what a student is to be asked.
    """
    groups = grouped(rows)
    group = next(groups, None)
    number = -1
    for number, original in enumerate(named_rows(step.originals)):
        own: list[Row] = []
        if group is not None and _number(group[0]) == number:
            own, group = group, next(groups, None)
        decided = _decided(original, own, step, answers, tally)
        if decided is not None:
            yield decided | {NUMBER: number}
    if group is not None:
        raise StepError(
            "originals",
            f"a rewrite has {NUMBER} {_number(group[0])}, after {number + 1} originals; write the "
            "data set that the rewrites were asked for, in its order",
        )


def _number(row: Row) -> int:
    if not isinstance(row.get(NUMBER), int):
        raise StepError(
            "kind",
            f"the rewrites have no column `{NUMBER}`, which says what they rewrite; name a generate "
            "stage's data",
        )
    return row[NUMBER]


def _decided(
    original: Row, rewrites: Sequence[Row], step: RewriteStep, answers: Answers, tally: Tally
) -> Row | None:
    """The row to train on; None where there is to be none."""
    reference = completion_of(original)
    if answers.of(original, reference) is None:
        return _unanswered(original, rewrites, step, tally)
    for index, row in enumerate(rewrites):
        grade = answers.grade(original, completion_of(row), reference)
        if grade.is_right:
            tally.drop("another one is taken", len(rewrites) - index - 1)
            return _rewritten(original, row, tally)
        tally.drop("no answer" if grade.answer is None else "answers otherwise")
    tally.counted["original kept: " + ("none agrees" if rewrites else "no rewrite")] += 1
    return original | {IS_REWRITTEN: False}


def _unanswered(
    original: Row, rewrites: Sequence[Row], step: RewriteStep, tally: Tally
) -> Row | None:
    tally.counted["originals without an answer"] += 1
    if step.unanswered == "rewrite" and rewrites:
        tally.drop("another one is taken", len(rewrites) - 1)
        return _rewritten(original, rewrites[0], tally)
    tally.drop("the original has no answer", len(rewrites))
    return None if step.unanswered == "drop" else original | {IS_REWRITTEN: False}


def _rewritten(original: Row, row: Row, tally: Tally) -> Row:
    tally.counted["rewritten"] += 1
    return with_completion(original, completion_of(row)) | {IS_REWRITTEN: True}
