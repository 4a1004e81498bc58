import json
import math
import shutil
from pathlib import Path

import pytest

from llmkd.errors import InputError
from llmkd.report.run_files import read_metrics, read_run
from llmkd.report.write import write_report


def test_a_finished_run_is_read_whole(make_run):
    run = read_run(make_run())
    assert run.problems == []
    assert {stage.status for stage in run.stages.values()} == {"finished"}
    assert run.stages["student"].data.num_truncated == 1
    assert len(run.stages["student"].metrics) == 20
    assert [record.model for record in run.records] == ["teacher", "twin", "student"]


def test_a_stage_is_not_begun_unfinished_or_finished(make_run):
    folder = make_run()
    path = folder / "stages/twin/stage.json"
    path.write_text(path.read_text().replace('"is_finished": true', '"is_finished": false'))
    (folder / "stages/student/stage.json").unlink()
    stages = read_run(folder).stages
    assert [stages[name].status for name in ("teacher", "twin", "student")] == [
        "finished", "unfinished", "not begun",
    ]  # fmt: skip


def test_a_stage_file_from_before_times_were_kept_is_read(make_run):
    folder = make_run()
    old = {"fingerprint": "f", "inputs": {}, "is_finished": True}
    (folder / "stages/twin/stage.json").write_text(json.dumps(old))
    run = read_run(folder)
    assert run.problems == []
    state = run.stages["twin"].state
    assert state is not None
    assert state.seconds is None


STATE = '{"fingerprint": "f", "inputs": {}, "is_finished": true, "seconds": 61, "ended": "now"}'
DETAILS = '{"lengths": [{"task": "t", "model": "m", "counts": [[9, 1]]}]}'


@pytest.mark.parametrize("make", ["nothing", "file", "empty"])
def test_what_is_no_run_is_refused_with_what_to_write(tmp_path, make):
    path = tmp_path / "here"
    if make == "file":
        path.write_text("text")
    if make == "empty":
        path.mkdir()
    with pytest.raises(InputError, match=r"here: no run of llmkd.*write the output_dir"):
        read_run(path)


@pytest.mark.parametrize(
    "text", ["", "[1]", "a: [", "name: x\nstages: 3\n", "name: x\nstages: {a: {kind: curate}}\n"]
)
def test_a_broken_recipe_is_refused_by_name(make_run, text):
    folder = make_run()
    (folder / "recipe.resolved.yaml").write_text(text)
    with pytest.raises(InputError, match=r"recipe\.resolved\.yaml"):
        read_run(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("environment.json", "{"),
        ("environment.json", "[]"),
        ("stages/evaluation/results.json", "[1]"),
        ("stages/twin/stage.json", "{}"),
        ("stages/student/data.json", '{"num_rows": "many"}'),
        ("stages/evaluation/details.json", '{"samples": [{"task": 1}]}'),
        ("stages/texts/generation.json", "null"),
    ],
)
def test_another_broken_file_is_left_out_and_told(make_run, name, text):
    folder = make_run()
    (folder / name).write_text(text)
    (problem,) = read_run(folder).problems
    assert name in problem


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("stages/twin/stage.json", STATE.replace("61", '"61"')),
        ("stages/twin/stage.json", STATE.replace("61", "1e400")),
        ("stages/twin/stage.json", STATE.replace('"now"', "5")),
        ("stages/twin/stage.json", STATE.replace("true", '"yes"')),
        ("environment.json", "[" * 200_000),
        ("stages/twin/stage.json", "[" * 200_000),
        ("stages/student/metrics.jsonl", "[" * 200_000),
        ("stages/student/metrics.jsonl", '{"step": 1%s}' % ("0" * 400)),
        ("stages/student/metrics.jsonl", '{"step": 1e308}'),
        ("stages/student/data.json", '{"lengths": [[1%s, 1]]}' % ("0" * 400)),
        ("stages/student/data.json", '{"num_rows": 1%s}' % ("0" * 400)),
        ("stages/evaluation/details.json", DETAILS.replace("9", "1" + "0" * 400)),
        ("stages/texts/generation.json", '{"num_prompts": 1%s, "num_kept": 1}' % ("0" * 400)),
        ("stages/evaluation/results.json", '[{"value": "1.0"}]'),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_on_the_page_and_left_out(make_run, name, text):
    folder = make_run()
    (folder / name).write_text(text)
    page = write_report([folder]).read_text(encoding="utf-8")
    assert f"<b>files</b> {folder / name}" in page


def test_what_may_not_be_entered_is_named_and_left_out(make_run, monkeypatch):
    folder = make_run()
    exists = Path.exists

    def guarded(path):
        if path.parent.name == "twin":
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", guarded)
    run = read_run(folder)
    # stage.json, two logs, and the five files of counts
    assert len(run.problems) == 8
    assert all("stages/twin/" in problem for problem in run.problems)
    assert run.stages["twin"].state is None
    assert run.stages["student"].state is not None

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refused)
    with pytest.raises(InputError, match=r"Permission denied.*write a folder that you may enter"):
        read_run(folder)


def test_results_are_those_of_the_finished_stages_whatever_was_gathered_before(make_run):
    folder = make_run()
    (folder / "results.json").unlink()
    assert len(read_run(folder).records) == 3
    run = make_run("again")
    path = run / "stages/evaluation/stage.json"
    path.write_text(path.read_text().replace('"is_finished": true', '"is_finished": false'))
    assert read_run(run).records == []
    path.unlink()
    assert read_run(run).records == []


def test_where_only_the_gathered_results_were_kept_they_are_read(make_run):
    folder = make_run()
    shutil.rmtree(folder / "stages")
    assert len(read_run(folder).records) == 3


def test_log_lines_that_are_broken_are_counted_and_the_others_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 20, "loss": 1.0}\n{"step": 10, "loss": NaN, "kl": null, "note": "a", "is": true}\n'
        '[1]\n{"loss": 2}\n{"step": NaN}\n{"step": 30, "loss": Infinity, "big": 1e400}\n{"step": 40, "lo'
    )
    lines, num_broken = read_metrics(path)
    assert num_broken == 4
    assert [line["step"] for line in lines] == [10, 20, 30]
    assert lines[1] == {"step": 20, "loss": 1.0}
    assert lines[0].keys() == {"step", "loss", "kl"}
    assert all(math.isnan(lines[i][name]) for i, name in ((0, "loss"), (0, "kl"), (2, "big")))


def test_an_empty_metrics_file_has_no_lines(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    assert read_metrics(tmp_path / "metrics.jsonl") == ([], 0)
