"""Tasks that say what a distillation did: how near a student is to its teacher, and what it costs."""

from typing import Literal

from pydantic import Field

from llmkd.recipe.data import DatasetRows
from llmkd.recipe.evaluation_base import FileTask, NamedTask, TextTask


class AgreementTask(TextTask):
    """How near a model's predictions are to the teacher's, token by token on the same text.

    Needs a teacher with the same tokenizer: `teacher` of the stage, or `--teacher`.
    """

    kind: Literal["agreement"]
    top_k: int = Field(default=5, gt=0)
    """Of how many of the likeliest tokens the overlap is counted."""


class DraftTask(FileTask):
    """The model drafts, the teacher accepts or not: speculative decoding by transformers.

    Needs a teacher with the same tokenizer: `teacher` of the stage, or `--teacher`.

    References:
        Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding",
        https://arxiv.org/abs/2211.17192.
    """

    kind: Literal["draft"]
    data: DatasetRows
    """Rows of `prompt`, or of `text`, of which the first tokens are taken."""
    prompt_length: int = Field(default=32, gt=0)
    """Most tokens of a prompt."""
    max_completion_length: int = Field(default=64, gt=1)
    """Tokens that are written after each."""
    num_draft_tokens: int = Field(default=5, gt=0)
    """Tokens that are drafted at a time."""
    temperature: float = Field(default=1.0, ge=0)
    """0 is greedy: then a token is accepted where it is the teacher's favourite."""


TeacherTask = AgreementTask | DraftTask
"""Tasks that compare a model with a teacher."""


class CostTask(NamedTask):
    """What a model costs: size, arithmetic, speed and memory, in a process of its own."""

    kind: Literal["cost"]
    prompt_length: int = Field(default=128, gt=1)
    """Tokens that are read at once."""
    completion_length: int = Field(default=64, gt=1)
    """Tokens that are written after them, one at a time."""
    batch_size: int = Field(default=1, gt=0)
    """Sequences at the same time."""
    num_rounds: int = Field(default=5, gt=0)
    """Times that it is measured, after one round to warm up."""
