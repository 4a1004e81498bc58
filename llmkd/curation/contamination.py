"""`contamination`: rows that share a word n-gram with a question of an evaluation."""

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import UInt64

from llmkd.curation.minhash import ngrams
from llmkd.curation.rows import question_of, whole_text
from llmkd.curation.tally import Row, StepError, Stream, Tally, judged
from llmkd.data.files import raw_rows
from llmkd.data.question_columns import USUAL_NAMES
from llmkd.evaluation.suites import find_suite
from llmkd.recipe.curation_steps import ContaminationStep
from llmkd.recipe.data import DatasetFiles

Index = UInt64[np.ndarray, " known"]
"""Hashes of n-grams, in order."""
_WORD = re.compile(r"\w+")
_QUESTIONS = (*USUAL_NAMES["question"], "text", "sentence")


def contamination(rows: Stream, step: ContaminationStep, tally: Tally) -> Stream:
    """Rows without those whose question and answer share an n-gram with what is looked for.

    The index takes 8 bytes per different n-gram.
    """
    index = index_of(_questions(step, tally), step.ngram, tally)

    def judge(row: Row) -> Row | str:
        words = words_of(whole_text(row))
        if len(words) < step.ngram:
            return row
        return "shares an n-gram" if has_any(index, ngrams(words, step.ngram)) else row

    return judged(rows, judge, tally)


def words_of(text: str) -> list[str]:
    """The words of a text, without case, punctuation and white space."""
    return _WORD.findall(text.casefold())


def index_of(questions: Iterable[str], ngram: int, tally: Tally) -> Index:
    """The n-grams of all questions, in order; those that are too short to have one are counted."""
    found = array("Q")
    for question in questions:
        words = words_of(question)
        tally.counted["questions looked for"] += len(words) >= ngram
        tally.counted["questions too short"] += len(words) < ngram
        if len(words) >= ngram:
            found.extend(ngrams(words, ngram).tolist())
    if not found:
        raise StepError(
            "ngram", f"no question has {ngram} words; write a smaller ngram, or other questions"
        )
    return np.unique(np.frombuffer(found, np.uint64))


def has_any(index: Index, hashes: UInt64[np.ndarray, " ngrams"]) -> bool:
    """Whether one of some hashes is in the index."""
    places = np.minimum(np.searchsorted(index, hashes), len(index) - 1)
    return bool((index[places] == hashes).any())


def _questions(step: ContaminationStep, tally: Tally) -> Iterator[str]:
    for source in step.against:
        yield from _questions_of(source, source.columns, "against")
    for name in step.suites:
        for task in find_suite(name).tasks:
            source = getattr(task, "data", None)
            if isinstance(source, DatasetFiles):
                yield from _questions_of(source, getattr(source, "columns", {}), "suites")
            else:
                tally.counted["tasks without a data set"] += 1


def _questions_of(source: DatasetFiles, columns: Mapping[Any, str], field: str) -> Iterator[str]:
    named = [columns[name] for name in ("question", "prompt", "text") if name in columns]
    for row in islice(raw_rows(source, None), source.num_examples):
        yield _question(row, named, source, field)


def _question(row: Mapping[str, Any], named: list[str], source: DatasetFiles, field: str) -> str:
    has_own = not named and (row.get("messages") or row.get("prompt"))
    if has_own:
        return question_of({k: v for k, v in row.items() if v is not None})
    column = next((name for name in (*named, *_QUESTIONS) if isinstance(row.get(name), str)), None)
    if column is None:
        raise StepError(
            field,
            f"{source.dataset_name} has no question in its columns {', '.join(row)}; write "
            "columns: {question: NAME}",
        )
    return row[column]
