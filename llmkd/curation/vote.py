"""`vote`: the answer that most completions of a prompt give."""

from collections import Counter
from collections.abc import Callable, Sequence

from llmkd.curation.answers import Answers
from llmkd.curation.rows import completion_of, grouped, without_completion
from llmkd.curation.tally import Row, Stream, Tally
from llmkd.recipe.curation_steps import VoteStep

UNDECIDED = "undecided"
"""The split of the data with the prompts that were kept so, and how the reasons begin."""


def vote(
    rows: Stream, step: VoteStep, answers: Answers, tally: Tally, keep: Callable[[Row], None]
) -> Stream:
    """The rows that agree with their prompt's majority.

    Args:
        rows: Those of one prompt follow each other.
        step: Who wins, and what stays.
        answers: Finds them.
        tally: Counts rows by reason, and prompts.
        keep: Takes an undecided prompt, where they are kept.
    """
    for group in grouped(rows):
        found = [answers.of(row, completion_of(row)) for row in group]
        winner, reason = _winner(found, step)
        if winner is None:
            tally.drop(f"{UNDECIDED}: {reason}", len(group))
            tally.counted[f"prompts {UNDECIDED}: {reason}"] += 1
            if step.undecided == "keep":
                keep(without_completion(group[0]))
            continue
        tally.counted["prompts decided"] += 1
        agreeing = [row for row, answer in zip(group, found, strict=True) if answer == winner]
        tally.drop("no answer", found.count(None))
        tally.drop("outvoted", len(group) - len(agreeing) - found.count(None))
        kept = agreeing[:1] if step.keep == "one" else agreeing
        tally.drop("agrees with the one that is kept", len(agreeing) - len(kept))
        column = {} if step.answer_column is None else {step.answer_column: winner}
        yield from (row | column for row in kept)


def _winner(found: Sequence[str | None], step: VoteStep) -> tuple[str | None, str]:
    """The majority's answer, or None and why there is none."""
    votes = Counter(answer for answer in found if answer is not None)
    if not votes:
        return None, "no answer"
    # Of equally many votes, the answer that came first comes first.
    (winner, most), *others = votes.most_common()
    if step.ties == "drop" and others and others[0][1] == most:
        return None, "tie"
    if most < step.min_votes:
        return None, "too few votes"
    return (
        (None, "too small a share") if most < step.min_share * len(found) - 1e-9 else (winner, "")
    )
