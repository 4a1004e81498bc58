"""Tasks of lm-eval, the harness by which papers measure language models."""

from typing import Any, Literal

from pydantic import Field

from llmkd.recipe.base import RecipePart
from llmkd.recipe.evaluation_base import FileTask


class HarnessRows(RecipePart):
    """Which rows a task of lm-eval is measured on."""

    dataset_name: str | None = None
    """A JSONL or Parquet file, or a folder of them; null takes the hub data set that lm-eval's task
    names, and its split."""
    columns: dict[str, str] = Field(default_factory=dict)
    """From the names that lm-eval's task uses to those of the file: `{sentence1: premise}`. Of a column
    that holds objects, `target.span1_text` is a field."""
    fewshot_name: str | None = None
    """A file with rows for few-shot examples, with the same columns. Null takes other rows of the
    measured file. A row is never its own example."""
    num_examples: int | None = Field(default=None, gt=0)
    """Measure only the first so many rows; null measures all."""


class LMEvalTask(FileTask):
    """A task of lm-eval, with its prompts, its grading and its names of metrics."""

    kind: Literal["lm_eval"]
    task: str | None = None
    """What lm-eval calls the task; null takes `name`."""
    definition: str | dict[str, Any] | None = None
    """A task that lm-eval lacks: the path of a YAML file in lm-eval's form, or its content."""
    data: HarnessRows = Field(default_factory=HarnessRows)
    """Whose rows are measured."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Solved examples before each; null takes what the task says, which is mostly 0."""
    apply_chat_template: bool = False
    """Ask in the model's chat format."""
    fewshot_as_multiturn: bool = True
    """In the chat format, each few-shot example is a turn of its own."""
    system_instruction: str | None = None
    """What the system says first."""
    generation_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Changes how answers are written, in lm-eval's words: `{temperature: 0.7, max_gen_toks: 512}`."""

    exact_match_by: list[str] = Field(default_factory=list)
    """Columns that tell which rows belong to one question, such as `idx.question`. Adds `em`: the share
    of questions of whose rows each is answered right. For tasks with choices."""

    @property
    def task_name(self) -> str:
        """What lm-eval calls the task."""
        return self.task or self.name
