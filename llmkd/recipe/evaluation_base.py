"""What the tasks of evaluation suites share."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from llmkd.recipe.base import RecipePart
from llmkd.recipe.data import TextSource


class NamedTask(RecipePart):
    """A task of a suite."""

    name: str = Field(min_length=1)
    """What results call the task."""


class FileTask(NamedTask):
    """A task whose rows come from a data set, and may come from a local file instead."""

    def with_file(self, path: str, columns: Mapping[str, str]) -> dict[str, Any]:
        """The task as plain data, with all rows of a file in place of its own.

        Args:
            path: A JSONL or Parquet file, or a folder of them.
            columns: What the file calls its columns, where not as the task's own data set does.
        """
        content = self.model_dump(mode="json")
        own: dict[str, Any] = content.get("data") or {}
        data = {key: value for key, value in own.items() if key not in OF_A_DATA_SET}
        if columns or "columns" in own:
            data["columns"] = {**own.get("columns", {}), **columns}
        return {**content, "data": {**data, "dataset_name": path}}


class TextTask(FileTask):
    """A task whose rows are scored token by token."""

    data: TextSource
    """Rows of `text`, of which every token but the first of a row or stream is scored once; or of
    `prompt` and `completion`, or `messages`, of which only the completion, or what the assistant
    says, is."""
    join_rows: bool = False
    """Join all rows of text to one stream, each begun by the begin-of-text token, before cutting
    windows. Otherwise each row is cut for itself."""


OF_A_DATA_SET = frozenset(["dataset_name", "dataset_config", "dataset_split", "num_examples"])
"""Settings of a task's own data set that say nothing of a file."""
