import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from llmkd.errors import InputError
from llmkd.evaluation.results import (
    Record,
    check_replaceable,
    read_results,
    results_table,
    shown,
    without_nan,
    write_results,
)

RECORD = Record("student", "procedural", "addition", "exact_match", 0.912, 0.886, 0.936, 500, 0)


def test_results_survive_writing(tmp_path):
    records = [RECORD, replace(RECORD, model="teacher", value=1.0)]
    write_results(tmp_path / "a" / "results.json", records)
    assert read_results(tmp_path / "a" / "results.json") == records


def test_the_files_fields_are_the_contract(tmp_path):
    write_results(tmp_path / "results.json", [RECORD])
    (written,) = json.loads((tmp_path / "results.json").read_text())
    fields = "model suite task metric value ci_low ci_high num_examples seed"
    assert list(written) == fields.split()


def test_a_diverged_models_number_is_null_and_the_others_are_kept(tmp_path):
    path = tmp_path / "results.json"
    write_results(path, [replace(RECORD, value=float("nan"), ci_high=float("inf")), RECORD])
    written = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert written[0]["value"] is None
    diverged, other = read_results(path)
    assert math.isnan(diverged.value)
    assert other == RECORD


@pytest.mark.parametrize("content", ["", "[1]", '[{"model": "m"}]', '{"a": 1}'])
def test_what_is_no_results_file_is_refused(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError, match=r"results\.json: no results"):
        read_results(tmp_path / "results.json")
    with pytest.raises(InputError, match=r"missing\.json: no results"):
        read_results(tmp_path / "missing.json")


def test_shares_are_shown_in_percent_and_other_numbers_as_they_are():
    assert shown(RECORD) == "91.2 % [88.6, 93.6]"
    loss = replace(RECORD, metric="loss_per_token", value=1.51439, ci_low=1.4688, ci_high=1.55745)
    assert shown(loss) == "1.514 [1.469, 1.557]"


def test_the_table_groups_models_by_task_in_the_order_given():
    records = [
        RECORD,
        replace(RECORD, task="text", metric="perplexity", value=4.5),
        replace(RECORD, model="teacher [big]"),
        replace(RECORD, model="teacher [big]", task="text", metric="perplexity", value=3.5),
    ]
    table = results_table(records)
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table)
    lines = [line for line in capture.get().splitlines() if "student" in line or "teacher" in line]
    assert len(lines) == 4
    assert [("addition" in line, "text" in line) for line in lines] == [
        (True, False),
        (False, False),
        (False, True),
        (False, False),
    ]
    assert "student" in lines[0]
    assert "teacher [big]" in lines[1]
    assert "91.2 % [88.6, 93.6]" in lines[1]
    assert "500" in lines[1]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("value", "1.0"), ("value", True), ("value", 10**400), ("ci_low", [1]),
        ("model", ["x"]), ("model", None), ("task", 1), ("num_examples", "x"),
        ("num_examples", None), ("seed", 1.5), ("seed", None), ("more", 1),
    ],
)  # fmt: skip
def test_a_field_of_another_type_is_refused(tmp_path, key, value):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{**vars(RECORD), key: value}]))
    with pytest.raises(InputError, match=r"results\.json: no results"):
        read_results(path)


def test_plain_data_has_null_in_place_of_what_is_not_finite():
    assert without_nan({"a": [1.0, float("nan")], "b": (float("inf"),), "c": "nan"}) == {
        "a": [1.0, None], "b": [None], "c": "nan",
    }  # fmt: skip


def test_results_may_replace_results_and_nothing_else(tmp_path):
    path = tmp_path / "results.json"
    check_replaceable(path)
    check_replaceable(tmp_path / "new" / "folder" / "results.json")
    write_results(path, [RECORD])
    check_replaceable(path)
    path.write_text("precious")
    with pytest.raises(InputError, match=r"is no results\.json of llmkd; write another file"):
        check_replaceable(path)
    for other in (tmp_path, Path("/dev/null"), path / "results.json"):
        with pytest.raises(InputError, match="write a"):
            check_replaceable(other)
