"""Sums of several numbers, added one at a time: every order of them is a right way to the answer.

    prompt      7+12+5=
    completion  5+7=12;12+12=24;#24        (ascending)
    completion  12+7=19;19+5=24;#24        (descending)

and differences likewise, `40-7-12-5=` and `40-5=35;35-7=28;28-12=16;#16`. One token per character.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, pairwise

import numpy as np

from llmkd.data.splits import is_in_split, mixed
from llmkd.errors import DataError
from llmkd.recipe.procedural import ChainedSumsTask, Operation, Order

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
CHARACTERS = "0123456789+-=;#\n :,.?abcdefghijklmnopqrstuvwxyz"
"""Those of the task, and what a prompt around it is written in."""
MOST_TRIES = 10_000
"""Draws that give nothing new, one after another, before a split is taken to be exhausted."""
LARGEST_REST = 20


def vocabulary() -> dict[str, int]:
    """Character to id, after the special tokens; capital letters are not among them."""
    return {token: i for i, token in enumerate([*SPECIAL_TOKENS, *CHARACTERS])}


def make_rows(task: ChainedSumsTask, seed: int) -> list[dict[str, str]]:
    """Makes `num_examples` different problems of the split: `prompt`, `completion` and `answer`.

    With `reference_order`, a row has the same problem done in that order as its `reference` too.
    Problems of the same numbers are of the same split, whatever their order and the seed.

    Raises:
        DataError: The split has fewer problems than asked for.
    """
    rows: dict[str, dict[str, str]] = {}
    tries = 0
    for problem in _problems(task, seed):
        row = None if problem is None else _row(problem, task)
        is_new = row is not None and row["prompt"] not in rows
        tries = 0 if is_new else tries + 1
        if row is not None and is_new:
            rows[row["prompt"]] = row
        if len(rows) == task.num_examples:
            break
        if tries == MOST_TRIES:
            raise DataError("num_examples", _too_few(task, len(rows)))
    return list(rows.values())


def _too_few(task: ChainedSumsTask, num_rows: int) -> str:
    fewer = f"num_examples: {num_rows} or less, or " if num_rows else ""
    return (
        f"split {task.split} has about {num_rows} problems of {task.num_terms} numbers up to "
        f"{task.largest_term}, {task.num_examples} were asked for; write {fewer}more numbers, or a "
        "greater largest_term"
    )


@dataclass(frozen=True)
class _Problem:
    operation: Operation
    terms: list[int]
    """As the prompt has them."""
    rest: int
    """What is left at the end of a difference."""
    bits: np.uint64
    """Its own randomness."""


def _problems(task: ChainedSumsTask, seed: int) -> Iterator[_Problem | None]:
    """Problems drawn without end; None for each of another split, as a split may have none."""
    stream = mixed(np.uint64(seed))
    for index in count():
        bits = mixed(np.uint64(index) ^ stream)
        terms = [1 + draw % task.largest_term for draw in _draws(bits, task.num_terms)]
        own, rest = _draws(mixed(bits), 2)
        operations: Sequence[Operation] = ("plus", "minus")
        operation = operations[own % 2] if task.operation == "both" else task.operation
        problem = _Problem(operation, terms, rest % LARGEST_REST, bits)
        yield problem if is_in_split(_number(problem), task.split) else None


def _draws(bits: np.uint64, how_many: int) -> list[int]:
    return mixed(bits ^ mixed(np.arange(how_many, dtype=np.uint64))).tolist()


def _number(problem: _Problem) -> np.uint64:
    """The same for problems of the same numbers, in whatever order."""
    rest = problem.rest if problem.operation == "minus" else LARGEST_REST
    return mixed(np.array(problem.terms, np.uint64)).sum() + np.uint64(rest)


def _row(problem: _Problem, task: ChainedSumsTask) -> dict[str, str]:
    sign = "+" if problem.operation == "plus" else "-"
    first = [] if problem.operation == "plus" else [sum(problem.terms) + problem.rest]
    row = {
        "prompt": sign.join(map(str, first + problem.terms)) + "=",
        "completion": _derivation(first, _ordered(problem, task.order), sign),
        "answer": str(sum(problem.terms) if problem.operation == "plus" else problem.rest),
    }
    if task.reference_order is not None:
        terms = _ordered(problem, task.reference_order)
        row["reference"] = _derivation(first, terms, sign)
    return row


def _ordered(problem: _Problem, order: Order) -> list[int]:
    if order == "shuffled":
        ranks = _draws(mixed(problem.bits ^ np.uint64(1)), len(problem.terms))
        return [term for _, term in sorted(zip(ranks, problem.terms, strict=True))]
    return sorted(problem.terms, reverse=order == "descending")


def _derivation(first: list[int], terms: list[int], sign: str) -> str:
    numbers = first + terms
    signed = [numbers[0], *(term if sign == "+" else -term for term in numbers[1:])]
    steps = zip(pairwise(accumulate(signed)), numbers[1:], strict=True)
    done = "".join(f"{before}{sign}{term}={after};" for (before, after), term in steps)
    return f"{done}#{sum(signed)}"
