"""Where results go: stdout that takes nothing more, files that are somebody else's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmkd.cli import app
from llmkd.evaluation.results import Record, write_results


def shell(command, folder):
    """A shell's command in which `llmkd` is this one."""
    return subprocess.run(
        ["bash", "-c", command.replace("llmkd", f"{sys.executable} -m llmkd")],
        cwd=folder, capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def make_results(folder, value=0.5, seed=0):
    records = [Record("m", "s", "t", "exact_match", value, value, value, 9, seed)]
    write_results(folder / "results.json", records)
    return str(folder)


@pytest.mark.parametrize("options", ["", "--json"])
def test_a_reader_that_has_enough_ends_the_command_quietly(tmp_path, options):
    run = make_results(tmp_path / "run")
    done = shell(f"llmkd compare {run} {options} | true; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
@pytest.mark.parametrize("options", ["", "--json"])
def test_a_full_disk_under_stdout_is_not_blamed_on_the_run(tmp_path, options):
    run = make_results(tmp_path / "run")
    done = shell(f"llmkd compare {run} {options} >/dev/full", tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("stdout: cannot be written (No space left on device)")


def test_json_has_null_for_what_is_not_finite(tmp_path):
    runs = [make_results(tmp_path / f"r{i}", value=float("nan"), seed=i) for i in range(2)]
    for arguments in (runs, runs[:1]):
        out = CliRunner().invoke(app, ["compare", *arguments, "--json"]).stdout
        assert json.loads(out, parse_constant=pytest.fail)


@pytest.fixture
def measured(monkeypatch):
    """The models that `llmkd eval` measured; it takes no time."""
    models = []

    def run(recipe, **_):
        models.extend(recipe.stages["evaluation"].models)
        return [Record("m", "s", "t", "exact_match", 0.5, 0.4, 0.6, 9, 0)]

    monkeypatch.setattr("llmkd.pipeline.run", run)
    return models


def test_eval_looks_where_it_will_write_before_it_measures(tmp_path, measured):
    path = tmp_path / "precious.json"
    path.write_text('{"mine": 1}')
    done = CliRunner().invoke(app, ["eval", "m", "--output", str(path)])
    assert done.exit_code == 2
    assert "is no results.json of llmkd; write another file" in done.output
    assert not measured
    assert path.read_text() == '{"mine": 1}'


def test_results_that_cannot_be_written_are_printed_all_the_same(tmp_path, measured, monkeypatch):
    def write_nothing(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llmkd.evaluation.results.write_atomically", write_nothing)
    done = CliRunner().invoke(app, ["eval", "m", "--output", str(tmp_path / "r.json")])
    assert done.exit_code == 1
    assert "50.0 %" in done.output
    assert "cannot be written (No space left on device)" in done.output


@pytest.mark.parametrize(
    ("key", "value"), [("value", "1.0"), ("num_examples", "x"), ("model", [1])]
)
def test_damaged_results_are_refused_by_name(tmp_path, key, value):
    # In a process of its own: under the tests' type checks, a record refuses by itself.
    run = Path(make_results(tmp_path / "run"))
    (record,) = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps([{**record, key: value}]))
    done = shell(f"llmkd compare {run}", tmp_path)
    assert done.returncode == 2
    assert "results.json: no results" in done.stderr
    assert "Traceback" not in done.stderr
