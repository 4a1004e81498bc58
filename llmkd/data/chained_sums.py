"""Sums of several numbers, added one at a time: every order of them is a right way to the answer.

    prompt      7+12+5=
    completion  5+7=12;12+12=24;#24        (ascending)
    completion  12+7=19;19+5=24;#24        (descending)

and differences likewise, `40-7-12-5=` and `40-5=35;35-7=28;28-12=16;#16`. One token per character.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, combinations_with_replacement, count, pairwise
from math import comb, factorial
from typing import Literal

import numpy as np
from jaxtyping import Int64, UInt64

from llmkd.data.splits import TENTHS, is_in_split, mixed
from llmkd.errors import DataError
from llmkd.recipe.data import Split
from llmkd.recipe.procedural import ChainedSumsTask, Operation, Order

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
CHARACTERS = "0123456789+-=;#\n :,.?abcdefghijklmnopqrstuvwxyz"
"""Those of the task, and what a prompt around it is written in."""
MOST_COUNTED = 200_000
"""Sets of numbers that are looked at one by one to count a split's problems."""
SURE_SHARE = 0.9
"""Of so many sets, the share of a split's expected problems that it has without counting them."""
DRAWN_AT_ONCE = 4096
LARGEST_REST = 20

Numbers = UInt64[np.ndarray, " problems"]


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
    refuse_too_many(task)
    rows: dict[str, dict[str, str]] = {}
    for problem in _problems(task, seed):
        prompt = _prompt(problem)
        if prompt not in rows:
            rows[prompt] = {"prompt": prompt, **_done(problem, task)}
        if len(rows) == task.num_examples:
            break
    return list(rows.values())


def refuse_too_many(task: ChainedSumsTask) -> None:
    """Raises DataError where the split has fewer problems than asked for."""
    most = num_problems(task.num_terms, task.largest_term, task.operation, task.split)
    if task.num_examples > most:
        fewer = f"num_examples: {most} or less, or " if most else ""
        raise DataError(
            "num_examples",
            f"split {task.split} gives {most} problems of {task.num_terms} numbers up to "
            f"{task.largest_term} at most, {task.num_examples} were asked for; write {fewer}more "
            "numbers, or a greater largest_term",
        )


@cache
def num_problems(
    num_terms: int, largest_term: int, operation: Operation | Literal["both"], split: Split
) -> int:
    """How many problems a split gives: all that it has, or of very many at least nine tenths."""
    rests = {"plus": [LARGEST_REST], "minus": range(LARGEST_REST), "both": range(LARGEST_REST + 1)}
    if comb(largest_term + num_terms - 1, num_terms) > MOST_COUNTED:
        start, end = TENTHS[split]
        expected = largest_term**num_terms * len(rests[operation]) * (end - start) / 10
        return int(SURE_SHARE * expected)
    sets = combinations_with_replacement(range(1, largest_term + 1), num_terms)
    terms = np.array(list(sets), np.uint64)
    numbers, orders = mixed(terms).sum(1), _num_orders(terms)
    found = (orders[is_in_split(numbers + np.uint64(rest), split)] for rest in rests[operation])
    return sum(int(each.sum()) for each in found)


def _num_orders(terms: UInt64[np.ndarray, "sets terms"]) -> Int64[np.ndarray, " sets"]:
    """In how many different orders the numbers of each row, sorted, can be written."""
    # The product of 1, 2, ... over equal neighbours is that of the factorials of how often each is there.
    repeats = np.ones(terms.shape, np.int64)
    for column in range(1, terms.shape[1]):
        is_same = terms[:, column] == terms[:, column - 1]
        repeats[:, column] += is_same * repeats[:, column - 1]
    return factorial(terms.shape[1]) // repeats.prod(1)


@dataclass(frozen=True)
class _Problem:
    operation: Operation
    terms: list[int]
    """As the prompt has them."""
    rest: int
    """What is left at the end of a difference."""
    bits: np.uint64
    """Its own randomness."""

    @property
    def sign(self) -> str:
        return "+" if self.operation == "plus" else "-"

    @property
    def first(self) -> list[int]:
        """What numbers are taken from; nothing of a sum."""
        return [] if self.operation == "plus" else [sum(self.terms) + self.rest]


def _problems(task: ChainedSumsTask, seed: int) -> Iterator[_Problem]:
    """The split's problems among those that are drawn without end; some come again."""
    stream = mixed(np.uint64(seed))
    operations: Sequence[Operation] = ("plus", "minus")
    for start in count(0, DRAWN_AT_ONCE):
        bits = mixed(np.arange(start, start + DRAWN_AT_ONCE, dtype=np.uint64) ^ stream)
        terms = np.uint64(1) + _draws(bits, task.num_terms) % np.uint64(task.largest_term)
        own, rests = _draws(mixed(bits), 2).T % np.array([[2], [LARGEST_REST]], np.uint64)
        if task.operation != "both":
            own = np.full_like(own, operations.index(task.operation))
        numbers = mixed(terms).sum(1) + np.where(own == 1, rests, np.uint64(LARGEST_REST))
        for at in np.flatnonzero(is_in_split(numbers, task.split)):
            operation = operations[int(own[at])]
            yield _Problem(operation, terms[at].tolist(), int(rests[at]), bits[at])


def _draws(bits: Numbers, how_many: int) -> UInt64[np.ndarray, "problems draws"]:
    """So many numbers of each problem's randomness."""
    return mixed(bits[:, None] ^ mixed(np.arange(how_many, dtype=np.uint64)))


def _prompt(problem: _Problem) -> str:
    return problem.sign.join(map(str, problem.first + problem.terms)) + "="


def _done(problem: _Problem, task: ChainedSumsTask) -> dict[str, str]:
    """The columns beside the prompt."""
    sign, first = problem.sign, problem.first
    row = {
        "completion": _derivation(first, _ordered(problem, task.order), sign),
        "answer": str(sum(problem.terms) if problem.operation == "plus" else problem.rest),
    }
    if task.reference_order is not None:
        terms = _ordered(problem, task.reference_order)
        row["reference"] = _derivation(first, terms, sign)
    return row


def _ordered(problem: _Problem, order: Order) -> list[int]:
    if order == "shuffled":
        own = mixed(np.array([problem.bits ^ np.uint64(1)]))
        ranks = _draws(own, len(problem.terms))[0].tolist()
        return [term for _, term in sorted(zip(ranks, problem.terms, strict=True))]
    return sorted(problem.terms, reverse=order == "descending")


def _derivation(first: list[int], terms: list[int], sign: str) -> str:
    numbers = first + terms
    signed = [numbers[0], *(term if sign == "+" else -term for term in numbers[1:])]
    steps = zip(pairwise(accumulate(signed)), numbers[1:], strict=True)
    done = "".join(f"{before}{sign}{term}={after};" for (before, after), term in steps)
    return f"{done}#{sum(signed)}"
