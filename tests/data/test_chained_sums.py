import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkd.data import chained_sums
from llmkd.data.chained_sums import make_rows, num_problems, vocabulary
from llmkd.data.tasks import build_tokenizer
from llmkd.errors import DataError
from llmkd.recipe.procedural import ChainedSumsTask

SPLITS = ("train", "unlabelled", "validation", "test")


def a_task(**fields):
    return ChainedSumsTask(
        kind="task", task="chained_sums", **{"num_examples": 20, "operation": "both", **fields}
    )


def terms_of(row):
    """What is added or taken away, and what it is taken from."""
    numbers = [int(number) for number in re.findall(r"\d+", row["prompt"])]
    return (None, numbers) if "+" in row["prompt"] else (numbers[0], numbers[1:])


def taken(completion):
    """The numbers of a derivation in the order in which it takes them, every step checked."""
    *steps, last = completion.split(";")
    order, result = [], None
    for step in steps:
        before, sign, term, after = re.fullmatch(r"(\d+)([+-])(\d+)=(\d+)", step).groups()
        assert result is None or int(before) == result
        result = int(before) + int(term) * (1 if sign == "+" else -1)
        assert int(after) == result
        if not order and sign == "+":
            order.append(int(before))
        order.append(int(term))
    assert last == f"#{result}"
    return order


@given(
    seed=st.integers(0, 2**32),
    num_terms=st.integers(2, 12),
    largest_term=st.integers(5, 999),
    operation=st.sampled_from(["plus", "minus", "both"]),
)
def test_every_step_is_right_and_takes_the_prompts_numbers(
    seed, num_terms, largest_term, operation
):
    task = a_task(
        num_terms=num_terms,
        largest_term=largest_term,
        operation=operation,
        reference_order="shuffled",
        num_examples=3,
    )
    for row in make_rows(task, seed):
        first, terms = terms_of(row)
        assert len(terms) == num_terms
        assert all(1 <= term <= largest_term for term in terms)
        assert taken(row["completion"]) == sorted(terms)
        assert sorted(taken(row["reference"])) == sorted(terms)
        assert int(row["answer"]) == (sum(terms) if first is None else first - sum(terms)) >= 0
        assert row["completion"].endswith(f"#{row['answer']}")


def test_a_row_by_hand():
    # 40 - 5 = 35, 35 - 7 = 28; the same numbers from the largest.
    rows = make_rows(a_task(operation="minus", num_terms=2, order="descending"), 0)
    for row in rows:
        first, (a, b) = terms_of(row)
        large, small = max(a, b), min(a, b)
        rest = first - large
        expected = f"{first}-{large}={rest};{rest}-{small}={rest - small};#{rest - small}"
        assert row["completion"] == expected


def test_a_shuffled_order_is_neither_of_the_others_nor_the_prompts():
    rows = make_rows(a_task(num_examples=200, order="shuffled"), 0)
    orders = [(taken(row["completion"]), terms_of(row)[1]) for row in rows]
    for other in (sorted, lambda terms: sorted(terms, reverse=True), list):
        assert sum(order == other(terms) for order, terms in orders) < 10


def test_the_seed_gives_the_rows_and_fewer_are_the_first_of_more():
    many = make_rows(a_task(num_examples=50), 7)
    assert make_rows(a_task(num_examples=50), 7) == many
    assert make_rows(a_task(num_examples=20), 7) == many[:20]
    assert make_rows(a_task(num_examples=50), 8) != many
    assert len({row["prompt"] for row in many}) == 50


def test_both_operations_are_about_as_frequent():
    rows = make_rows(a_task(num_examples=400), 0)
    assert 150 < sum("+" in row["prompt"] for row in rows) < 250


def test_splits_share_no_numbers_in_any_order_and_for_any_seed():
    found = {}
    for seed, split in enumerate(SPLITS):
        task = a_task(split=split, num_terms=2, largest_term=9, operation="plus", num_examples=3)
        for row in make_rows(task, seed) + make_rows(task, seed + 10):
            numbers = tuple(sorted(terms_of(row)[1]))
            assert found.setdefault(numbers, split) == split


@pytest.mark.parametrize("operation", ["plus", "minus", "both"])
@pytest.mark.parametrize(("num_terms", "largest_term"), [(2, 9), (3, 4), (4, 2)])
def test_splits_have_as_many_problems_as_there_are_and_no_more(operation, num_terms, largest_term):
    # Each order of the numbers is a problem; a difference ends in one of 20 numbers.
    kinds = {"plus": 1, "minus": 20, "both": 21}[operation]
    sizes = [num_problems(num_terms, largest_term, operation, split) for split in SPLITS]
    assert sum(sizes) == largest_term**num_terms * kinds
    fields = {"operation": operation, "num_terms": num_terms, "largest_term": largest_term}
    for split, size in zip(SPLITS, sizes, strict=True):
        task = a_task(split=split, **fields, num_examples=size or 1)
        if size:
            assert len({row["prompt"] for row in make_rows(task, 0)}) == size
        more = task.model_copy(update={"num_examples": size + 1})
        with pytest.raises(DataError, match=f"split {split} gives {size} problems") as told:
            make_rows(more, 0)
        assert (f"num_examples: {size} or less" in str(told.value)) == (size > 0)


def test_too_many_sets_of_numbers_to_be_looked_at_one_by_one_are_reckoned(monkeypatch):
    sizes = {split: num_problems(4, 12, "both", split) for split in SPLITS}
    monkeypatch.setattr(chained_sums, "MOST_COUNTED", 100)
    num_problems.cache_clear()
    for split, size in sizes.items():
        assert 0.85 * size < num_problems(4, 12, "both", split) < size
    num_problems.cache_clear()


def test_a_split_without_a_problem_is_refused():
    # 1+1= is the only problem there is, so that three of the four splits have none.
    task = a_task(num_terms=2, largest_term=1, operation="plus", num_examples=1)
    told = []
    for split in SPLITS:
        try:
            assert [
                row["prompt"] for row in make_rows(task.model_copy(update={"split": split}), 0)
            ] == ["1+1="]
        except DataError as error:
            told.append(error.message)
    assert len(told) == 3
    assert "gives 0 problems" in told[0]
    assert "num_examples: 0" not in told[0]


def test_its_tokenizer_gives_every_character_back():
    tokenizer = build_tokenizer(a_task())
    for row in make_rows(a_task(reference_order="shuffled"), 0):
        text = "rewrite: {reference}\nof: {prompt}".format(**row) + row["completion"]
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id
        assert len(ids) == len(text) + 1
        assert tokenizer.decode(ids[1:]) == text
    assert len(tokenizer) == len(vocabulary())
