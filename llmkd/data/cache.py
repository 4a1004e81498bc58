"""Tokenized rows, kept on disk under a fingerprint of all that they depend on.

    CACHE/tokenized/FINGERPRINT/examples.arrow    the examples, mapped into memory when read
                                counts.json       rows seen and dropped

CACHE is `llmkd.cache_folder`.
"""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import tokenizers
from transformers import PreTrainedTokenizerBase

from llmkd.cache_folder import cache_folder
from llmkd.data.files import content_of
from llmkd.data.sources import iter_rows
from llmkd.data.tokenize import ROWS_AT_ONCE, Example, Tokenize
from llmkd.progress import Progress, say
from llmkd.recipe.data import (
    AdditionTask,
    CompletionTask,
    DatasetRows,
    NamedIntentTask,
    StoreRows,
)
from llmkd.run_folder import fingerprint
from llmkd.teacher_data.places import content_of_store
from llmkd.training.checkpoints import publish, removed_on_failure

FORMAT = 3
"""Raised when the same rows and settings give other examples than before."""
EXAMPLES, COUNTS = "examples.arrow", "counts.json"


def tokenized(
    source: CompletionTask | DatasetRows | StoreRows,
    tokenize: Tokenize,
    *,
    seed: int,
    progress: Progress,
) -> tuple[datasets.Dataset, int]:
    """The examples of a source, from the cache where they are there, and how many were dropped.

    Args:
        source: What is read.
        tokenize: How rows become examples; used up.
        seed: Decides which rows a procedural task makes.
        progress: Called with (done, total) rows; total is None where it is not known.

    Raises:
        InputError: Rows that cannot be used, or none with a token to train on.
    """
    key = _key(source, tokenize, seed)
    folder = cache_folder() / "tokenized" / key
    with _held(folder):
        found = _read(folder)
        if found is None:
            _write(folder, source, tokenize, seed, progress)
            found = _read(folder)
    assert found is not None
    return found


def _key(source: CompletionTask | DatasetRows | StoreRows, tokenize: Tokenize, seed: int) -> str:
    settings = {"max_length", "append_eos", "assistant_only_loss"}
    return fingerprint(
        {
            "format": FORMAT,
            "rows": _rows(source),
            "content": _content(source, seed),
            "tokenizer": _tokenizer_content(tokenize.tokenizer),
            "sequences": tokenize.sequences.model_dump(include=settings),
            "form": tokenize.form,
        }
    )


def _rows(source: CompletionTask | DatasetRows | StoreRows) -> dict[str, Any]:
    """What says which rows are taken, without where they are."""
    match source:
        case AdditionTask():
            fields = {*AdditionTask.model_fields}
        case NamedIntentTask():
            fields = {*NamedIntentTask.model_fields}
        case DatasetRows():
            fields = {*DatasetRows.model_fields} - {"dataset_name"}
        case StoreRows():
            fields = {"kind", "num_examples"}
    return source.model_dump(include=fields)


def _content(source: CompletionTask | DatasetRows | StoreRows, seed: int) -> int | str:
    match source:
        case AdditionTask() | NamedIntentTask():
            return seed
        case DatasetRows():
            return content_of(source)
        case StoreRows(path=path):
            return content_of_store(path)


def _tokenizer_content(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend else [sorted(tokenizer.get_vocab().items())]
    return {
        "class": type(tokenizer).__name__,
        "version": tokenizers.__version__,
        "rules": rules,
        "settings": "" if backend else repr(sorted(tokenizer.init_kwargs.items())),
        "split_special_tokens": getattr(tokenizer, "split_special_tokens", None),
        "special_tokens": {k: str(v) for k, v in tokenizer.special_tokens_map.items()},
        "chat_template": str(tokenizer.chat_template),
    }


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lets one process at a time make an entry; the others wait, and find it made."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(folder: Path) -> tuple[datasets.Dataset, int] | None:
    if not (folder / COUNTS).is_file():
        return None
    try:
        counts = json.loads((folder / COUNTS).read_text())
        examples = datasets.Dataset.from_file(str(folder / EXAMPLES))
        if len(examples) == counts["num_rows"] - counts["num_dropped"]:
            return examples, counts["num_dropped"]
    except (OSError, ValueError, KeyError, pyarrow.ArrowException):
        pass
    say(f"{folder}: is broken and is made again")
    return None


def _write(
    folder: Path,
    source: CompletionTask | DatasetRows | StoreRows,
    tokenize: Tokenize,
    seed: int,
    progress: Progress,
) -> None:
    staged = folder.with_suffix(".staged")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    examples = tokenize(iter_rows(source, seed=seed, need=tokenize.need))
    with removed_on_failure(staged):
        with pyarrow.ipc.new_stream(str(staged / EXAMPLES), tokenize.schema) as file:
            while chunk := list(islice(examples, ROWS_AT_ONCE)):
                file.write_table(_table(chunk, tokenize.schema))
                progress(tokenize.num_rows, source.num_examples)
        tokenize.refuse_nothing()
        counts = {"num_rows": tokenize.num_rows, "num_dropped": tokenize.num_dropped}
        (staged / COUNTS).write_text(json.dumps(counts) + "\n")
        publish(staged, folder)


def _table(examples: list[Example], schema: pyarrow.Schema) -> pyarrow.Table:
    return pyarrow.Table.from_pylist([asdict(example) for example in examples], schema=schema)
