"""Where examples come from: a data set, or a procedural task that needs no files."""

from typing import Annotated, Literal

from pydantic import Field, Tag

from llmkd.recipe.base import RecipePart, kind_or


class DatasetSource(RecipePart):
    """Rows of a file, a folder, a hub data set, or what an earlier stage wrote.

    A row has either a `text` field (every token is trained on) or `prompt` and `completion`
    fields (only the completion is).
    """

    kind: Literal["dataset"] = "dataset"
    dataset_name: str = Field(min_length=1)
    """A JSONL, Parquet or .txt file, a folder of them, a hub name, or `stage:NAME`."""
    dataset_config: str | None = None
    """The hub data set's configuration, where it has several."""
    dataset_split: str = "train"
    """The split to read. A single file is its own `train` split."""
    num_examples: int | None = Field(default=None, gt=0)
    """Read only the first so many rows; null reads all."""
    max_length: int = Field(default=1024, gt=1)
    """Longest sequence in tokens; longer ones are cut at the end, counted and reported."""
    append_eos: bool = True
    """End every example with the tokenizer's end-of-text token."""


class AdditionTask(RecipePart):
    """Sums of two numbers with the carries written out, from the last digit to the first.

    Generated from the seed: the splits `train`, `unlabelled`, `validation` and `test` never share
    a sum.
    """

    kind: Literal["task"]
    task: Literal["addition"] = "addition"
    digits: int = Field(default=3, ge=1, le=9)
    """Digits of each summand; shorter numbers are padded with leading zeros."""
    num_examples: int = Field(gt=0)
    """How many different sums to make; refused where the split has fewer."""
    split: Literal["train", "unlabelled", "validation", "test"] = "train"
    """`unlabelled` has other sums than `train`: prompts for a teacher to answer."""


DataSource = Annotated[
    Annotated[AdditionTask, Tag("task")] | Annotated[DatasetSource, Tag("dataset")],
    kind_or("dataset"),
]
