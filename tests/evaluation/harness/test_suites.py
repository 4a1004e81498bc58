import json

import pytest

from llmkd.evaluation.harness.definitions import shipped_definitions
from llmkd.evaluation.harness.tasks import load_task
from llmkd.evaluation.suites import find_suite, with_data

GLUE = ["cola", "sst2", "mrpc", "qqp", "mnli", "mnli_mismatch", "qnli", "rte", "wnli"]
SUPERGLUE = ["boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc"]


@pytest.mark.parametrize(
    ("suite", "names"), [("glue", GLUE), ("superglue", SUPERGLUE), ("bbh", None)]
)
def test_lm_eval_has_every_task_of_the_shipped_suites(suite, names):
    tasks = find_suite(suite).tasks
    assert names is None or [task.name for task in tasks] == names
    assert len({task.name for task in tasks}) == len(names or range(27))
    known = shipped_definitions()
    assert [t.name for t in tasks if t.definition is None and t.task_name not in known] == []


@pytest.mark.parametrize("label", [0, 1])
def test_multirc_takes_label_0_for_no(label, tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {"paragraph": "It rains.", "question": "Is it dry?", "answer": "Yes", "label": label}
    path.write_text(json.dumps(row) + "\n")
    suite = with_data(find_suite("superglue"), [f"multirc={path}"])
    (task,) = [task for task in suite.tasks if task.name == "multirc"]
    loaded = load_task(task, seed=0)
    choices = loaded.doc_to_choice(loaded.eval_docs[0])
    assert choices[loaded.doc_to_target(loaded.eval_docs[0])] == (
        f"Yes\nIs the answer correct? {['no', 'yes'][label]}"
    )
    assert list(loaded.aggregation()) == ["f1"]
