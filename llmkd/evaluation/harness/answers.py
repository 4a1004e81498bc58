"""What a model answered to lm-eval's prompts, as a report shows it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.api.task import ConfigurableTask
from transformers import PreTrainedTokenizerBase

from llmkd.evaluation.details import Sample, TaskDetails

NUM_SAMPLES = 8
RIGHT_OR_WRONG = ("acc", "exact_match", "em")
"""Metrics of lm-eval that say of one example whether it is right, in order of preference."""

Logged = Mapping[str, Any]


def details_of(
    task: ConfigurableTask, logged: Sequence[Logged], tokenizer: PreTrainedTokenizerBase
) -> TaskDetails:
    """Some prompts with their answers, and the lengths of all written ones.

    Args:
        task: As it was measured.
        logged: The samples that lm-eval logged; of several filters, the first is shown.
        tokenizer: Counts the tokens of what was written, up to where lm-eval cut it.
    """
    shown = [sample for sample in logged if sample["filter"] == logged[0]["filter"]]
    match task.OUTPUT_TYPE:
        case "multiple_choice":
            return TaskDetails([_choice(task, sample) for sample in shown[:NUM_SAMPLES]])
        case "generate_until":
            lengths = [_length(sample, tokenizer) for sample in shown]
            pairs = zip(shown[:NUM_SAMPLES], lengths, strict=False)
            return TaskDetails([_written(sample, length) for sample, length in pairs], lengths)
        case _:
            return TaskDetails()


def is_right_choice(task: ConfigurableTask, sample: Logged) -> bool:
    """Whether the likeliest choice is right, by lm-eval's own word where it has one."""
    known, target = _is_right(sample), sample["target"]
    answers = target if isinstance(target, list) else [target]
    number, text = _favourite(task, sample)
    return (number in answers or text in answers) if known is None else known


def _favourite(task: ConfigurableTask, sample: Logged) -> tuple[int, str]:
    """The likeliest choice: its number and its text."""
    choices = task.doc_to_choice(sample["doc"])
    scores = [answer[0] for answer in sample["filtered_resps"][: len(choices)]]
    number = int(np.argmax(scores))
    return number, choices[number]


def _choice(task: ConfigurableTask, sample: Logged) -> Sample:
    choices = task.doc_to_choice(sample["doc"])
    return Sample(
        example=sample["doc_id"],
        prompt=sample["arguments"][0][0],
        reference=_reference(sample["target"], choices),
        text=_favourite(task, sample)[1],
        num_tokens=None,
        is_right=is_right_choice(task, sample),
    )


def _written(sample: Logged, length: int) -> Sample:
    return Sample(
        example=sample["doc_id"],
        prompt=sample["arguments"][0][0],
        reference=str(sample["target"]),
        text=sample["resps"][0][0],
        num_tokens=length,
        is_right=_is_right(sample),
    )


def _length(sample: Logged, tokenizer: PreTrainedTokenizerBase) -> int:
    return len(tokenizer.encode(sample["resps"][0][0], add_special_tokens=False))


def _reference(target: Any, choices: Sequence[str]) -> str:
    return choices[target] if isinstance(target, int) else str(target)


def _is_right(sample: Logged) -> bool | None:
    return next((bool(sample[name]) for name in RIGHT_OR_WRONG if name in sample), None)
