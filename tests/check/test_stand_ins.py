import json

from llmkd.check.stand_ins import write_curated
from llmkd.curation.manifest import kept_fraction
from llmkd.recipe.curation import CurateStage


def stand_in(tmp_path, data, *steps):
    stage = CurateStage.model_validate({"kind": "curate", "data": data, "steps": [*steps]})
    write_curated(stage, tmp_path / "stage")
    lines = (tmp_path / "stage" / "data.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def rows_file(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


ROW = {"prompt": "1+1=", "completion": "2", "answer": "2"}


def test_rows_have_the_columns_that_steps_add(tmp_path):
    path = rows_file(tmp_path / "rows.jsonl", *[ROW] * 4)
    judged = stand_in(tmp_path, path, {"kind": "verify", "grader": "number", "keep": "all"})
    assert {row["is_right"] for row in judged} == {True, False}
    step = {"kind": "rewrite_if_correct", "grader": "number", "originals": {"dataset_name": path}}
    rewritten = stand_in(tmp_path, path, step)
    assert [row["number"] for row in rewritten] == [0, 1, 2, 3]
    assert {row["is_rewritten"] for row in rewritten} == {True, False}
    step = {"kind": "extract", "grader": "exact_match", "labels": ["a", "b"]}
    assert {row["label"] for row in stand_in(tmp_path, path, step)} == {"a", "b"}


def test_rows_of_every_source_are_there(tmp_path):
    first = rows_file(tmp_path / "a.jsonl", *[ROW] * 300)
    second = rows_file(tmp_path / "b.jsonl", ROW | {"completion": "3"})
    sources = [{"dataset_name": first}, {"dataset_name": second}]
    for data in sources, {"kind": "concatenation", "sources": sources}:
        assert {row["completion"] for row in stand_in(tmp_path, data)} == {"2", "3"}


def test_of_no_rows_none_was_dropped(tmp_path):
    assert stand_in(tmp_path, rows_file(tmp_path / "rows.jsonl")) == []
    assert kept_fraction(tmp_path / "stage") == 1
