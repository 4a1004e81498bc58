"""`select`: some of the prompts, at random or by how hard they are."""

from llmkd.curation.minhash import text_hash
from llmkd.curation.rows import column, grouped, prompt_key
from llmkd.curation.tally import Row, StepError, Stream, Tally, judged
from llmkd.recipe.curation_steps import SelectStep


def select(rows: Stream, step: SelectStep, tally: Tally, *, salt: str) -> Stream:
    """The rows of the prompts that are selected.

    Args:
        rows: For a pass rate, those of one prompt follow each other.
        step: Which prompts.
        tally: Counts rows.
        salt: With the prompt, decides what is drawn: another salt draws independently.
    """
    if step.pass_rate is not None:
        return _by_pass_rate(rows, step.pass_rate, tally)
    fraction = step.fraction or 0.0

    def judge(row: Row) -> Row | str:
        # By the prompt, so that all its rows stay or go, and no row has to be remembered.
        drawn = text_hash(f"{salt}\n{prompt_key(row)}") / 2**64
        return row if drawn < fraction else "not drawn"

    return judged(rows, judge, tally)


def _by_pass_rate(rows: Stream, bounds: list[float], tally: Tally) -> Stream:
    low, high = bounds
    for group in grouped(rows):
        right = [column(row, "is_right", "pass_rate") for row in group]
        if not all(isinstance(one, bool) for one in right):
            raise StepError(
                "pass_rate", "`is_right` is not true or false in every row; write it so"
            )
        rate = sum(right) / len(right)
        if low <= rate <= high:
            yield from group
        else:
            tally.drop("too hard" if rate < low else "too easy", len(group))
