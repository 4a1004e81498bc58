import pytest

from llmkd.errors import InputError
from llmkd.evaluation.suites import find_suite, with_data, with_settings
from llmkd.recipe.evaluation import Suite
from llmkd.recipe.load import checked_part
from llmkd.recipe.reasoning import ReasoningTask


def task(**settings):
    data = {"dataset_name": "org/name", "columns": {"question": "problem"}}
    content = {"kind": "reasoning", "name": "t", "data": data, "grader": "number"}
    return ReasoningTask.model_validate(content | settings)


def refused(**settings):
    """What is told of a suite with such a task."""
    content = task().model_dump(mode="json") | settings
    with pytest.raises(InputError) as caught:
        checked_part({"name": "s", "tasks": [content]}, Suite, "x")
    return str(caught.value)


def test_greedy_answers_are_asked_for_once():
    assert refused(generation={"num_samples": 4}) == (
        "x: tasks.0.generation.temperature: 0 gives the same answer 4 times; write a temperature such "
        "as 0.6 (--temperature), or num_samples: 1"
    )
    sampled = task(generation={"num_samples": 4, "temperature": 0.6})
    assert sampled.ks == [1, 4]
    assert task().ks == [1]
    checked_part({"name": "s", "tasks": [sampled.model_dump(mode="json")]}, Suite, "x")


def test_pass_at_needs_as_many_samples():
    sampled = {"num_samples": 4, "temperature": 1.0}
    assert task(generation=sampled, pass_at=[4, 2, 2]).ks == [2, 4]
    assert refused(generation=sampled, pass_at=[8]) == (
        "x: tasks.0.pass_at: 8 needs as many samples, and generation.num_samples is 4; write a "
        "smaller k, or num_samples: 8"
    )


def test_a_prompt_without_a_question_is_refused():
    assert refused(prompt="Answer!").startswith("x: tasks.0.prompt: has no {question}, so nothing")


def test_fewer_examples_than_are_shown_are_refused():
    assert refused(num_fewshot=2, fewshot=[{"question": "q", "answer": "a"}]) == (
        "x: tasks.0.num_fewshot: 2 examples are asked for, and fewshot has 1; write num_fewshot: 1, "
        "or more examples"
    )


def test_another_file_takes_the_place_of_examples_from_the_hub_but_not_of_written_ones():
    content = task(fewshot={"dataset_name": "org/name"}).with_file("a.jsonl", {"answer": "b"})
    assert content["fewshot"] is None
    assert content["data"]["columns"] == {"question": "problem", "answer": "b"}
    written = [{"question": "q", "answer": "a", "choices": []}]
    assert task(fewshot=written).with_file("a.jsonl", {})["fewshot"] == written


def test_the_shipped_suite_asks_every_data_set_and_takes_a_local_file(tmp_path):
    suite = find_suite("reasoning")
    assert [one.name for one in suite.tasks] == [
        "gsm8k", "math_500", "aime_2024", "aime_2025", "amc", "multiarith", "svamp",
        "arc_challenge", "commonsense_qa", "strategy_qa",
    ]  # fmt: skip
    path = tmp_path / "a.jsonl"
    path.touch()
    files = [f"{one.name}={path}" for one in suite.tasks]
    local = with_settings(with_data(suite, files), {("generation", "num_samples"): 1}, "--n")
    assert {one.data.dataset_name for one in local.tasks} == {str(path)}
    assert {one.data.dataset_split for one in local.tasks} == {"train"}
