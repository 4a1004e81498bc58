from collections import Counter
from itertools import pairwise

import pytest

from llmkd.curation import sources
from llmkd.errors import InputError
from llmkd.recipe.curation import RowsMixture


def row(number, text, prompt=None):
    return {"prompt": prompt or f"p{number}", "completion": text, "number": number}


def test_answers_of_several_teachers_are_put_together_by_number(curate, write_rows):
    first = write_rows([row(0, "a"), row(0, "b"), row(2, "c")], "first.jsonl")
    second = write_rows([row(0, "A"), row(1, "B"), row(2, "C")], "second.jsonl")
    found = curate([first, second])
    assert [r["completion"] for r in found.rows] == ["a", "b", "A", "B", "c", "C"]
    # The order of the teachers is the recipe's.
    assert [r["completion"] for r in curate([second, first]).rows][:3] == ["A", "a", "b"]


def test_a_system_message_makes_no_other_prompt(curate, write_rows):
    turns = [{"role": "user", "content": "p0"}, {"role": "assistant", "content": "b"}]
    system = {"role": "system", "content": "You are brief."}
    first = write_rows([{"messages": turns, "number": 0}], "first.jsonl")
    second = write_rows([{"messages": [system, *turns], "number": 0}], "second.jsonl")
    assert len(curate([first, second]).rows) == 2


def test_stages_that_asked_different_prompts_are_refused(curate, write_rows):
    first = write_rows([row(0, "a"), row(1, "b")], "first.jsonl")
    second = write_rows([row(0, "a"), row(1, "b", "other")], "second.jsonl")
    with pytest.raises(InputError) as caught:
        curate([first, second])
    assert "asked different prompts: number 1 is 'p1' and 'other'" in str(caught.value)
    assert "write {kind: concatenation, sources: [...]}" in str(caught.value)


def test_without_numbers_data_sets_follow_each_other(curate, write_rows):
    first, second = (write_rows([{"text": name}], f"{name}.jsonl") for name in "ab")
    assert curate([second, first]).rows == [{"text": "b"}, {"text": "a"}]
    mixed = write_rows([row(0, "a")], "c.jsonl")
    with pytest.raises(InputError, match="some of the data sets have a column `number`"):
        curate([first, mixed])


def test_numbers_that_go_back_are_refused(curate, write_rows):
    first = write_rows([row(1, "a"), row(0, "b")], "first.jsonl")
    with pytest.raises(InputError, match="`number` 0 comes after 1; the answers of several"):
        curate([first, write_rows([row(0, "c")], "second.jsonl")])


def test_other_prompts_are_concatenated_and_lose_their_numbers(curate, write_rows):
    first = write_rows([row(0, "a")], "first.jsonl")
    second = write_rows([row(0, "b", "other")], "second.jsonl")
    names = [{"dataset_name": name} for name in (first, second)]
    found = curate({"kind": "concatenation", "sources": names})
    assert found.rows == [
        {"prompt": "p0", "completion": "a"},
        {"prompt": "other", "completion": "b"},
    ]


def test_an_empty_data_set_is_passed_over_where_others_have_rows(curate, write_rows):
    empty, full = write_rows([], "empty.jsonl"), write_rows([row(0, "a")], "full.jsonl")
    assert len(curate([empty, full]).rows) == 1
    with pytest.raises(InputError, match="there is no row to curate"):
        curate([empty, empty])


def test_columns_are_renamed_and_missing_ones_are_named(curate, write_rows):
    path = write_rows([{"question": "q", "solution": "s", "level": 3}])
    source = {"dataset_name": path, "columns": {"prompt": "question", "completion": "solution"}}
    assert curate(source).rows == [{"prompt": "q", "completion": "s", "level": 3}]
    source["columns"]["prompt"] = "asked"
    message = "has no column asked; its columns are question, solution, level"
    with pytest.raises(InputError, match=message):
        curate(source)


def mixture(write_rows, sizes, weights, num_examples=None, group=1):
    names = [
        write_rows(
            [row(i // group, f"{k}", f"{k} {i // group}") for i in range(size)], f"{k}.jsonl"
        )
        for k, size in enumerate(sizes)
    ]
    parts = [
        {"dataset_name": name, "weight": float(weight)}
        for name, weight in zip(names, weights, strict=True)
    ]
    content = {"kind": "mixture", "sources": parts, "num_examples": num_examples}
    return RowsMixture.model_validate(content)


def test_a_mixture_is_as_large_as_it_can_be_without_repeating(write_rows):
    found = list(sources.curated_rows(mixture(write_rows, (30, 100), (1, 3))))
    counts = Counter(r["completion"] for r in found)
    # A fourth and three fourths of 120 to 123 rows; the 31st row of the first is what ends it.
    assert counts["0"] == 30
    assert 87 <= counts["1"] <= 93
    # At no time is a source more than a row from its share.
    for end in range(1, len(found)):
        begun = Counter(r["completion"] for r in found[:end])
        assert abs(begun["0"] - end / 4) <= 1


def test_a_mixture_of_so_many_rows_repeats_what_is_too_small(write_rows):
    found = list(sources.curated_rows(mixture(write_rows, (2, 100), (1, 1), 40)))
    assert Counter(r["completion"] for r in found) == {"0": 20, "1": 20}
    assert "number" not in found[0]


@pytest.mark.parametrize("group", [2, 3])
@pytest.mark.parametrize("weight", [0.3, 1, 7.7])
def test_answers_to_one_prompt_stay_together_in_a_mixture(write_rows, group, weight):
    made = mixture(write_rows, (12, 12), (1, weight), None, group)
    prompts = [r["prompt"] for r in sources.curated_rows(made)]
    changes = sum(a != b for a, b in pairwise(prompts))
    assert changes + 1 == len(set(prompts))


def test_so_many_rows_are_so_many_even_within_a_prompt(write_rows):
    made = mixture(write_rows, (12, 12), (1, 1), 10, group=3)
    assert len(list(sources.curated_rows(made))) == 10


def test_one_number_on_two_questions_is_two_prompts(curate):
    rows = [row(5, "4", "a"), row(5, "7", "b"), row(5, "7", "b")]
    vote = {"kind": "vote", "grader": "number"}
    assert len(curate(rows, vote).rows) == 3
    assert len(curate([r | {"number": None} for r in rows], vote).rows) == 3


def test_a_column_that_is_named_goes_before_one_that_is_called_so(curate, write_rows):
    path = write_rows([{"question": "Q", "prompt": "P", "completion": "4"}])
    (found,) = curate({"dataset_name": path, "columns": {"prompt": "question"}}).rows
    assert found == {"prompt": "Q", "completion": "4"}


def test_null_columns_are_columns_that_are_not_there(curate):
    rows = [{"messages": None, "prompt": "hi", "completion": "4", "id": None}]
    assert curate(rows, {"kind": "duplicates"}, {"kind": "length"}).rows == [
        {"prompt": "hi", "completion": "4", "id": None}
    ]


def test_a_mixture_with_nothing_to_repeat_is_refused(curate, write_rows):
    some, none = write_rows([row(0, "a"), row(1, "b")]), write_rows([], "none.jsonl")
    names = [{"dataset_name": some}, {"dataset_name": none}]
    with pytest.raises(InputError, match=r"none\.jsonl"):
        curate({"kind": "mixture", "sources": names, "num_examples": 5})


def test_a_stage_that_wrote_no_text_is_refused(curate, tmp_path):
    # As a score stage leaves it: what it counted, and a store.
    (tmp_path / "scored").mkdir()
    (tmp_path / "scored" / "generation.json").write_text("{}")
    with pytest.raises(
        InputError, match=r"data\.dataset_name: .*scored has no file that is \.jsonl"
    ):
        curate(str(tmp_path / "scored"))
