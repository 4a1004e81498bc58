import json

from llmkd.evaluation.references import published, published_beside
from llmkd.evaluation.results import Record
from llmkd.evaluation.suites import find_suite
from llmkd.recipe.reasoning import ReasoningTask
from llmkd.recipe.shipped import shipped_folder


def test_every_published_number_has_a_source_and_is_of_a_task_that_is_offered():
    assert published()
    for path in shipped_folder("references").glob("*.json"):
        source = json.loads(path.read_text())["source"]
        assert source["title"]
        assert source["url"].startswith("https://")
    for one in published():
        tasks = {task.name: task for task in find_suite(one.suite).tasks}
        task = tasks[one.task]
        of_grades = [f"pass@{k}" for k in task.ks] if isinstance(task, ReasoningTask) else []
        assert one.metric in [*task.metrics, *of_grades]
        assert 0 < one.value < 1


def test_only_what_was_measured_has_something_beside_it():
    record = Record("mine", "glue_classifiers", "rte", "accuracy", 0.5, 0.4, 0.6, 277, 0)
    beside = published_beside([record])
    assert {one.task for one in beside} == {"rte"}
    assert "BERT-base (109M) 68.6 %" in [f"{one.model} {one.text}" for one in beside]
    assert published_beside([Record(**{**vars(record), "suite": "mine"})]) == []
    asked = Record("mine", "reasoning", "math_500", "pass@1", 0.5, 0.4, 0.6, 500, 0)
    shown = [f"{one.model} {one.text}" for one in published_beside([asked])]
    assert "DeepSeek-R1-Distill-Qwen-1.5B 83.9 %" in shown
