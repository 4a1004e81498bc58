import json

import pytest

from llmkd.errors import DataError
from llmkd.evaluation.harness.definitions import shipped_definitions
from llmkd.evaluation.harness.scores import em_of_questions
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
    row["idx"] = {"paragraph": 0, "question": 0, "answer": 0}
    path.write_text(json.dumps(row) + "\n")
    loaded = load_task(_multirc(path), seed=0)
    choices = loaded.doc_to_choice(loaded.eval_docs[0])
    assert choices[loaded.doc_to_target(loaded.eval_docs[0])] == (
        f"Yes\nIs the answer correct? {['no', 'yes'][label]}"
    )
    assert list(loaded.aggregation()) == ["f1"]


def test_multirc_of_a_file_that_numbers_no_questions_is_told_what_to_write(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {"paragraph": "It rains.", "question": "Is it dry?", "answer": "Yes", "label": 0}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(
        DataError, match=r"row 1 has no idx.paragraph, .* --columns multirc.idx.par"
    ):
        load_task(_multirc(path), seed=0)
    texts = [f"multirc.idx.{name}={name}" for name in ("paragraph", "question")]
    assert load_task(_multirc(path, texts), seed=0).eval_docs[0]["idx.question"] == "Is it dry?"


def test_multircs_em_is_the_share_of_questions_with_all_answers_right_by_hand(tmp_path):
    # Paragraph, question, label, what the model finds likelier. Of paragraph 0, all of question 0 is right,
    # and one of two of question 1. Paragraph 1 has a question 0 of its own, wrong, and a right one.
    answers = [(0, 0, 1, 1), (0, 1, 0, 0), (1, 0, 0, 1), (0, 0, 0, 0), (0, 1, 1, 0), (1, 1, 0, 0)]
    rows = [
        {"paragraph": "p", "question": "q", "answer": "a", "label": label, "idx": {"paragraph": p, "question": q}}
        for p, q, label, _ in answers
    ]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = _multirc(path)
    loaded = load_task(task, seed=0)
    logged = [
        {"doc": row, "target": label, "filtered_resps": [(-1.5, False), (likelier - 2.0, True)]}
        for row, (*_, label, likelier) in zip(loaded.eval_docs, answers, strict=True)
    ]
    em = em_of_questions(loaded, logged, task.exact_match_by, seed=0)
    # 4 of 6 answers are right, and 2 of 4 questions.
    assert (em.metric, em.found.value, em.num_examples) == ("em", 0.5, 4)
    # Questions are resampled: a mean of four has no other values than quarters.
    assert set(em.found.resampled * 4) <= {0, 1, 2, 3, 4}
    # What lm-eval says of a row itself goes first.
    wrong = [{**one, "acc": 0.0} for one in logged]
    assert em_of_questions(loaded, wrong, task.exact_match_by, seed=0).found.value == 0
    # By the number of the question alone there are two, neither all right.
    assert em_of_questions(loaded, logged, ["idx.question"], seed=0).found.value == 0


def _multirc(path, columns=()):
    suite = with_data(find_suite("superglue"), [f"multirc={path}"], columns)
    (task,) = [task for task in suite.tasks if task.name == "multirc"]
    return task
