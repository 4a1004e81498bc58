"""Rows of a teacher store as data to train on: tokens as they were captured, never tokenized again."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from llmkd.errors import DataError
from llmkd.recipe.data import StoreRows
from llmkd.teacher_data.places import open_store
from llmkd.teacher_data.store import is_whole


def store_rows(source: StoreRows) -> Iterator[dict[str, Any]]:
    """Rows of `token_ids`, `spans`, `tokens_key` and `num_cut`, without those that were cut short.

    Raises:
        DataError: There is no row to train on.
    """
    is_empty = True
    for row in islice(filter(is_whole, open_store(source.path).texts()), source.num_examples):
        is_empty = False
        yield {
            "token_ids": row.token_ids.tolist(),
            "spans": row.spans,
            "tokens_key": row.tokens_key,
            "num_cut": row.num_cut,
        }
    if is_empty:
        raise DataError(
            "path",
            f"{source.path} has no completion that its teacher ended; capture with a larger "
            "generation.max_completion_length",
        )
