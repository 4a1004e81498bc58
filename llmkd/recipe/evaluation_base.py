"""What the tasks of evaluation suites share."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from llmkd.recipe.base import RecipePart


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


OF_A_DATA_SET = frozenset(["dataset_name", "dataset_config", "dataset_split", "num_examples"])
"""Settings of a task's own data set that say nothing of a file."""
