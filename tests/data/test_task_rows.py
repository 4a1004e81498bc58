import json

import pytest
from transformers import AutoTokenizer

from llmkd.check.report import check
from llmkd.data.files import raw_rows
from llmkd.data.task_rows import write_task_rows
from llmkd.data.tasks import make_rows
from llmkd.errors import InputError
from llmkd.recipe.data import DatasetFiles
from llmkd.recipe.procedural import TaskRowsStage, columns_of

SUMS = {"kind": "task", "task": "chained_sums", "num_examples": 5, "reference_order": "descending"}
TASKS = [
    SUMS,
    {"kind": "task", "task": "addition", "digits": 2, "num_examples": 5, "steps": "rationale"},
    {"kind": "task", "task": "named_intents", "num_examples": 5},
]


def test_rows_and_tokenizer_are_there_for_other_stages(tmp_path):
    for number, data in enumerate(TASKS):
        stage, folder = TaskRowsStage(kind="task_rows", data=data), tmp_path / str(number)
        folder.mkdir()
        write_task_rows(stage, folder, seed=3)
        rows = list(raw_rows(DatasetFiles(dataset_name=str(folder)), None))
        assert rows == make_rows(stage.data, 3)
        assert all(set(columns_of(stage.data)) == set(row) for row in rows)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for text in rows[0]["prompt"], rows[0]["completion"]:
            assert tokenizer.unk_token_id not in tokenizer(text).input_ids


def write_recipe(path, **data):
    stages = {
        "sums": {"kind": "task_rows", "data": SUMS | data},
        "model": {
            "kind": "train",
            "student": {
                "kind": "scratch",
                "config": {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1},
                "tokenizer_name_or_path": "stage:sums",
            },
            "data": {"dataset_name": "stage:sums", "max_length": 64},
            "losses": [{"kind": "cross_entropy"}],
            "trainer": {"max_steps": 1},
        },
    }
    path.write_text(json.dumps({"name": "x", "stages": stages}))
    return path


def test_check_knows_how_many_and_how_long_before_they_are_made(tmp_path):
    facts = check(write_recipe(tmp_path / "r.yaml")).stages
    assert facts["sums"].facts["rows"].value == 5
    longest = max(
        len(row["prompt"] + row["completion"])
        for row in make_rows(TaskRowsStage(kind="task_rows", data=SUMS).data, 0)
    )
    assert facts["sums"].facts["longest row"].value == longest + 2
    assert facts["model"].facts["rows"].value == 5
    assert facts["model"].facts["vocabulary"].value == 51


def test_check_refuses_more_problems_than_the_split_has(tmp_path):
    # The first 200 rows are there; the 2,000 that are asked for are not.
    few = {"num_terms": 3, "largest_term": 12, "split": "test", "num_examples": 2000}
    with pytest.raises(InputError, match=r"stages\.sums\.data\.num_examples: split test gives"):
        check(write_recipe(tmp_path / "r.yaml", **few))
