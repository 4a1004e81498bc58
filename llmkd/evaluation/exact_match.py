"""Exact match: greedy answers to a procedural task, right or wrong to the character."""

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmkd.data.addition import answer_of
from llmkd.data.sources import iter_rows
from llmkd.evaluation.details import Sample
from llmkd.evaluation.kept import Kept
from llmkd.progress import Progress
from llmkd.recipe.evaluation import ExactMatchTask
from llmkd.teacher_data.engine import Written
from llmkd.teacher_data.transformers_engine import generate

NUM_SAMPLES = 8
"""Answers that are kept to be read."""


@dataclass(frozen=True)
class ScoredAnswers:
    """Every example's score, and what there is to see of the answers."""

    scores: Float[np.ndarray, " examples"]
    """1 for every example whose answer is right, else 0."""
    lengths: list[int]
    """Tokens generated for every example."""
    samples: list[Sample]
    """The first examples."""


def score_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: ExactMatchTask,
    *,
    batch_size: int,
    seed: int,
    progress: Progress,
    kept: Kept | None = None,
) -> ScoredAnswers:
    """Asks for every example's answer and compares it with the reference.

    Only what follows the answer marker counts, not the reasoning before it; of sums with `steps:
    rationale`, all of a completion without a marker. One that was cut by length is wrong, whatever
    it says.

    Args:
        model: In evaluation mode.
        tokenizer: The model's.
        task: What to ask.
        batch_size: Examples generated together.
        seed: Decides which sums are asked; every model gets the same.
        progress: Called with (done, total) examples.
        kept: The answers that are there already; the others are added to it.
    """
    rows = list(iter_rows(task.data, seed=seed))
    kept = Kept(None, {}) if kept is None else kept
    for start in range(0, len(rows), batch_size):
        batch = range(start, min(start + batch_size, len(rows)))
        if not kept.has_all(batch):
            written = generate(
                model,
                tokenizer,
                [rows[i]["prompt"] for i in batch],
                temperature=0.0,
                max_completion_length=task.max_completion_length,
                seed=seed,
            )
            kept.add({i: asdict(one) for i, one in zip(batch, written, strict=True)})
        progress(batch.stop, len(rows))
    completions = [Written(**answer) for answer in kept.in_order()]
    pairs = list(zip(rows, completions, strict=True))
    scores = [float(is_right(completion, row["completion"])) for row, completion in pairs]
    samples = [
        Sample(i, row["prompt"], row["completion"], done.text, done.num_tokens, bool(scores[i]))
        for i, (row, done) in enumerate(pairs[:NUM_SAMPLES])
    ]
    return ScoredAnswers(np.array(scores), [done.num_tokens for done in completions], samples)


def is_right(completion: Written, reference: str) -> bool:
    """Whether a finished completion has the reference's answer.

    The answer follows the last marker. Where the reference has none (`steps: rationale`), nor needs
    the completion to have one: all of it is its answer then.
    """
    if completion.finish_reason != "stop":
        return False
    said, wanted = answer_of(completion.text), answer_of(reference)
    if wanted is None:
        return (completion.text if said is None else said) == reference
    return said == wanted
