import pytest
from pydantic import ValidationError

from llmkd.evaluation.suites import find_suite, with_data, with_settings
from llmkd.recipe.reasoning import ReasoningTask


def task(**settings):
    data = {"dataset_name": "org/name", "columns": {"question": "problem"}}
    content = {"kind": "reasoning", "name": "t", "data": data, "grader": "number"}
    return ReasoningTask.model_validate(content | settings)


def test_greedy_answers_are_asked_for_once():
    with pytest.raises(
        ValidationError, match="temperature: 0 gives the same answer 4 times; write"
    ):
        task(generation={"num_samples": 4})
    assert task(generation={"num_samples": 4, "temperature": 0.6}).ks == [1, 4]
    assert task().ks == [1]


def test_pass_at_needs_as_many_samples():
    sampled = {"num_samples": 4, "temperature": 1.0}
    assert task(generation=sampled, pass_at=[4, 2, 2]).ks == [2, 4]
    with pytest.raises(
        ValidationError, match="8 needs as many samples, and there is 4; write a sm"
    ):
        task(generation=sampled, pass_at=[8])


def test_a_prompt_without_a_question_is_refused():
    with pytest.raises(ValidationError, match=r"has no \{question\}, so nothing would be asked"):
        task(prompt="Answer!")


def test_fewer_examples_than_are_shown_are_refused():
    with pytest.raises(ValidationError, match="fewshot has 1 examples; write num_fewshot: 1"):
        task(num_fewshot=2, fewshot=[{"question": "q", "answer": "a"}])


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
