"""The problems that a student answers in reinforcement learning, as TRL reads them."""

import json
from typing import Any

import datasets
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from llmkd.data.cache import tokenized
from llmkd.data.kept_columns import KEPT
from llmkd.data.prompts import PromptTokenize
from llmkd.errors import DataError
from llmkd.progress import Progress
from llmkd.recipe.data import Prompts

RESERVED = (
    *("prompt", "prompts", "completion", "completions", "completion_ids", "image", "images"),
    *("environment", "environments", "trainer_state", "log_extra", "log_metric"),
)
"""Names that TRL gives to something else."""
_ROW = "row"


def rollout_prompts(
    source: Prompts,
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    *,
    seed: int,
    progress: Progress,
) -> tuple[datasets.Dataset, int]:
    """Rows of `prompt`, a text or a conversation, and of the columns that rewards read.

    Args:
        source: The recipe's.
        tokenizer: The student's, with the chat template that is to be used.
        config: The student's.
        seed: Decides what a procedural task makes.
        progress: Called with (done, total) rows.

    Returns:
        The rows, and the tokens of the longest prompt.

    Raises:
        InputError: Rows that cannot be used.
    """
    tokenize = PromptTokenize(tokenizer, config, source)
    found, _ = tokenized(source, tokenize, seed=seed, progress=progress)
    # As JSON: what rows say in one column may be of several types, which a table's may not.
    texts = [json.dumps(_row(prompt)) for prompt in found]
    rows = datasets.Dataset.from_dict({_ROW: texts}).with_transform(_columns)
    return rows, max(found["length"])


def _columns(texts: dict[str, list[str]]) -> dict[str, list[Any]]:
    rows = [json.loads(text) for text in texts[_ROW]]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _row(prompt: Any) -> dict[str, Any]:
    kept = json.loads(prompt[KEPT] or "{}")
    if taken := [name for name in kept if name in RESERVED]:
        raise DataError(
            "keep_columns",
            f"{taken[0]} is what TRL calls something of its own; give the column another name",
        )
    messages = prompt["messages"]
    return {"prompt": prompt["text"] if messages is None else json.loads(messages), **kept}
