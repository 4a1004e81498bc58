import json

from llmkd.evaluation.references import published, published_beside
from llmkd.evaluation.results import Record
from llmkd.evaluation.suites import find_suite
from llmkd.recipe.shipped import shipped_folder


def test_every_published_number_has_a_source_and_is_of_a_task_that_is_offered():
    assert published()
    for path in shipped_folder("references").glob("*.json"):
        source = json.loads(path.read_text())["source"]
        assert source["title"]
        assert source["url"].startswith("https://")
    for one in published():
        tasks = {task.name: task for task in find_suite(one.suite).tasks}
        assert one.metric in tasks[one.task].metrics
        assert 0 < one.value < 1


def test_only_what_was_measured_has_something_beside_it():
    record = Record("mine", "glue_classifiers", "rte", "accuracy", 0.5, 0.4, 0.6, 277, 0)
    beside = published_beside([record])
    assert {one.task for one in beside} == {"rte"}
    assert "BERT-base (109M) 68.6 %" in [f"{one.model} {one.text}" for one in beside]
    assert published_beside([Record(**{**vars(record), "suite": "mine"})]) == []
