"""Addition with the carries written out: a task made from a seed, which needs no files.

A three-digit example is 42 tokens with the begin and end tokens, one token per character:

    prompt      358+467=
    completion  8+7+0=15;5+6+1=12;3+4+1=08;#0825

Each column is `digit+digit+carry in=carry out, digit`, the last digit first, so that a carry is
always written before it is needed; the answer follows `#`. All widths are fixed by the number of
digits, which keeps the task within reach of a model with a hundred thousand parameters.

With `steps: rationale` the columns are a column of the row's own, and the answer stands alone:

    rationale   8+7+0=15;5+6+1=12;3+4+1=08;
    completion  0825
"""

import itertools

import numpy as np
from jaxtyping import UInt64
from transformers import PreTrainedTokenizerFast

from llmkd.data.splits import is_in_split, mixed
from llmkd.data.words import character_tokenizer
from llmkd.errors import InputError
from llmkd.recipe.data import AdditionTask

ANSWER_MARKER = "#"
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
CHARACTERS = "0123456789+=;" + ANSWER_MARKER

MOST_ENUMERATED_DIGITS = 3
MOST_EXAMPLES = 5_000_000
DRAWN_AT_ONCE = 65_536

Numbers = UInt64[np.ndarray, " pairs"]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Makes the task's tokenizer: one token per character, begun by `<bos>`.

    Decoding gives the text back to the character. The end token is left to whoever builds the
    sequence.
    """
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *CHARACTERS])}
    return character_tokenizer(vocabulary)


def make_rows(task: AdditionTask, seed: int) -> list[dict[str, str]]:
    """Makes `num_examples` different sums of the task's split: `prompt`, `completion` and `answer`.

    With `steps: rationale`, a row has its `rationale` too.

    Which split a pair of numbers belongs to is fixed for good: it depends neither on the seed nor
    on the number of digits. A smaller `num_examples` gives the first rows of a larger one.

    Raises:
        InputError: The split has fewer sums than asked for.
    """
    if task.num_examples > MOST_EXAMPLES:
        raise InputError(
            f"data.num_examples: {task.num_examples} is too many; "
            f"write num_examples: {MOST_EXAMPLES} or less"
        )
    choose = _choose_of_all if task.digits <= MOST_ENUMERATED_DIGITS else _choose_by_drawing
    firsts, seconds = choose(task, seed)
    if len(firsts) < task.num_examples:
        raise InputError(
            f"data.num_examples: split {task.split} has only {len(firsts)} sums of {task.digits} "
            f"digits, {task.num_examples} were asked for; write num_examples: {len(firsts)} or less"
        )
    pairs = zip(firsts.tolist(), seconds.tolist(), strict=True)
    return [_example(first, second, task) for first, second in pairs]


def answer_of(text: str) -> str | None:
    """The part after the last answer marker, or None where there is no marker.

    Example:
        >>> answer_of("8+7+0=15;#15")
        '15'
    """
    _, marker, answer = text.rpartition(ANSWER_MARKER)
    return answer if marker else None


def _example(first: int, second: int, task: AdditionTask) -> dict[str, str]:
    digits = task.digits
    prompt = f"{first:0{digits}d}+{second:0{digits}d}="
    columns, carry = [], 0
    for place in range(digits):
        a, b = first // 10**place % 10, second // 10**place % 10
        columns.append(f"{a}+{b}+{carry}={a + b + carry:02d};")
        carry = (a + b + carry) // 10
    answer = f"{first + second:0{digits + 1}d}"
    rationale = "".join(columns)
    if task.steps == "rationale":
        return {"prompt": prompt, "rationale": rationale, "completion": answer, "answer": answer}
    return {"prompt": prompt, "completion": rationale + ANSWER_MARKER + answer, "answer": answer}


def _choose_of_all(task: AdditionTask, seed: int) -> tuple[Numbers, Numbers]:
    """The first pairs of the split in an order given by the seed; fewer where there are fewer."""
    every = np.arange(10 ** (2 * task.digits), dtype=np.uint64)
    firsts, seconds = np.divmod(every, np.uint64(10**task.digits))
    kept = is_in_split(_pair_number(firsts, seconds), task.split)
    order = np.argsort(mixed(every[kept] ^ mixed(np.uint64(seed))), kind="stable")
    order = order[: task.num_examples]
    return firsts[kept][order], seconds[kept][order]


def _choose_by_drawing(task: AdditionTask, seed: int) -> tuple[Numbers, Numbers]:
    """Draws pairs until there are enough different ones: every split has millions of them."""
    base = np.uint64(10**task.digits)
    # A hash of a counter, not numpy's generator, whose streams may change between versions.
    stream = mixed(np.uint64(seed))
    pairs = np.empty(0, np.uint64)
    for start in itertools.count(0, DRAWN_AT_ONCE):
        counter = np.arange(start, start + DRAWN_AT_ONCE, dtype=np.uint64)
        drawn = mixed(counter ^ stream) % base ** np.uint64(2)
        drawn = drawn[is_in_split(_pair_number(drawn // base, drawn % base), task.split)]
        pairs = np.concatenate([pairs, drawn])
        if len(pairs) >= task.num_examples:
            pairs = pairs[np.sort(np.unique(pairs, return_index=True)[1])]
        if len(pairs) >= task.num_examples:
            break
    return np.divmod(pairs[: task.num_examples], base)


def _pair_number(firsts: Numbers, seconds: Numbers) -> Numbers:
    return firsts * np.uint64(10**9) + seconds
