"""`llmkd report`, and the report that every `llmkd train` leaves."""

import json
import subprocess
import sys


def test_a_run_leaves_its_report_which_can_be_made_again(llmkd, recipe, finished):
    run = finished
    html = (run / "report.html").read_text()
    for text in (
        "student 0.0",
        "perplexity",
        "Term forward_kl",
        "✓ finished",
        "llmkd train tiny.yaml",
    ):
        assert text in html, text
    for stage in ("teacher", "teacher_data", "student", "evaluation"):
        assert json.loads((run / "stages" / stage / "stage.json").read_text())["seconds"] > 0
    (run / "report.html").unlink()
    out, err = llmkd.run("report", "runs/tiny")
    assert (out, err) == ("runs/tiny/report.html\n", "")
    out, _ = llmkd.run("report", "runs/tiny", "--output", "mine.html", "--json")
    assert json.loads(out) == {"report": "mine.html"}
    assert (llmkd.folder / "mine.html").exists()

    # A report that cannot be written takes nothing from the run.
    (run / "report.html").write_text("somebody else's")
    out, err = llmkd.run("train", recipe, "--quiet")
    assert "perplexity" in out
    assert err.startswith("report.html: not written (")
    assert "`llmkd report runs/tiny` tries again" in err
    assert (run / "report.html").read_text() == "somebody else's"


def test_what_is_no_run_is_told_and_exits_2(llmkd):
    _, err = llmkd.run("report", "nowhere", status=2)
    assert "nowhere: no run of llmkd" in err
    assert "Traceback" not in err


def test_a_report_brings_no_torch():
    code = "import sys, llmkd.report.write; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_brings_no_template_engine():
    code = "import sys, llmkd.cli, llmkd.pipeline; assert 'jinja2' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_compare_of_one_run_prints_its_results(llmkd):
    record = {
        "model": "m", "suite": "s", "task": "t", "metric": "exact_match", "value": 0.5,
        "ci_low": 0.4, "ci_high": 0.6, "num_examples": 9, "seed": 0,
    }  # fmt: skip
    (llmkd.folder / "run").mkdir()
    (llmkd.folder / "run" / "results.json").write_text(json.dumps([record]))
    out, _ = llmkd.run("compare", "run")
    assert "50.0 % [40.0, 60.0]" in out
    out, _ = llmkd.run("compare", "run", "--json")
    assert json.loads(out)["results"] == [record]
    _, err = llmkd.run("compare", "run", "--baseline", "m", status=2)
    assert "one run has no pairs" in err
    _, err = llmkd.run("compare", "nowhere", status=2)
    assert "results.json: no results" in err
