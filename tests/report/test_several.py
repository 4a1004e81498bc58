"""Runs of one recipe with different seeds on one page."""

import html
import os
import re

import pytest

from llmkd.errors import InputError
from llmkd.evaluation.compare import compare_runs
from llmkd.report.run_files import default_baseline
from llmkd.report.write import write_report

VALUES = ((1.0, 0.4, 0.9), (0.99, 0.5, 0.95), (1.0, 0.45, 0.85))


@pytest.fixture
def three(make_run):
    """Folders of three seeds."""
    return [make_run(f"seed-{i}", seed=i, values=values) for i, values in enumerate(VALUES)]


def text_of(path):
    text = re.sub(r"<[^>]+>", " ", path.read_text(encoding="utf-8"))
    return " ".join(html.unescape(text).replace("\u00a0", " ").split())


def test_the_numbers_are_those_of_compare(three, tmp_path):
    text = text_of(write_report(three, tmp_path / "all.html"))
    rows = {row.model: row for row in compare_runs(three, "twin")}
    student = rows["student"]
    assert student.difference is not None
    assert student.difference_low is not None
    assert student.difference_high is not None
    assert (
        f"{100 * student.mean:.1f} % [{100 * student.ci_low:.1f}, {100 * student.ci_high:.1f}]"
        in text
    )
    assert "90.0, 95.0, 85.0" in text
    # Differences to the twin, which is the only one: 50, 45 and 40.
    assert f"+45.0 points [{100 * student.difference_low:+.1f}, {100 * student.difference_high:+.1f}] claim" in text  # fmt: skip
    assert "runs, seeds 0, 1, 2" in text


def test_a_difference_that_is_no_claim_is_marked_and_told(make_run, tmp_path):
    pairs = ((0.4, 0.5), (0.5, 0.4), (0.45, 0.5))
    runs = [make_run(f"r{i}", seed=i, values=(1.0, *pair)) for i, pair in enumerate(pairs)]
    text = text_of(write_report(runs, tmp_path / "all.html"))
    assert "no claim over these seeds" in text
    # It is about all runs together, so no seeds are named.
    assert re.search(
        r"student on sums of suite, exact_match differs from twin's by [^;]* no claim", text
    )


def test_among_several_twins_none_is_chosen_but_by_name(make_run, stages, tmp_path, record):
    stages["other_twin"] = stages["twin"]
    runs = []
    for seed in range(2):
        values = (("teacher", 1.0), ("twin", 0.4), ("other_twin", 0.6), ("student", 0.9))
        records = [record(name, x, x - 0.01, x + 0.01 * seed, seed=seed) for name, x in values]
        runs.append(make_run(f"r{seed}", seed=seed, stages=stages, records=records))
    text = text_of(write_report(runs, tmp_path / "all.html"))
    assert "--baseline NAME" in text
    assert "from other_twin to teacher" in text
    text = text_of(write_report(runs, tmp_path / "all.html", "twin"))
    assert "--baseline NAME" not in text
    assert "+50.0 points" in text
    with pytest.raises(InputError, match="--baseline: no model nobody; write one of teacher, twin"):
        write_report(runs, tmp_path / "all.html", "nobody")


def test_a_notice_of_several_seeds_is_told_once(three, tmp_path, metric_lines, write_metrics):
    for folder in three[1:]:
        write_metrics(folder, "student", metric_lines(kl=lambda x: 1.0))
    text = text_of(write_report(three, tmp_path / "all.html"))
    assert text.count("kl fell by 0 %") == 1
    assert "(seeds 1, 2; numbers of the first)" in text


def test_without_all_results_the_curves_are_shown_and_what_is_missing(make_run, tmp_path):
    runs = [make_run("a"), make_run("b", seed=1, records=[])]
    text = text_of(write_report(runs, tmp_path / "all.html"))
    assert "no results yet in" in text
    assert "Gradient norm" in text


def test_runs_that_differ_in_more_than_the_seed_are_told(make_run, stages, tmp_path):
    first = make_run("a")
    stages["student"]["losses"][1]["weight"] = 0.1
    text = text_of(write_report([first, make_run("b", seed=1, stages=stages)], tmp_path / "x.html"))
    assert "differ in more than the seed: stages.student.losses." in text


def test_runs_that_do_not_belong_together_are_refused(make_run, stages, tmp_path):
    first = make_run("a")
    with pytest.raises(InputError, match="seeds 0, 0; name run folders with different seeds"):
        write_report([first, make_run("b")], tmp_path / "x.html")
    del stages["twin"]
    with pytest.raises(InputError, match="has other stages than"):
        write_report([first, make_run("c", seed=1, stages=stages, records=[])], tmp_path / "x.html")


def test_a_report_is_replaced_but_no_other_file(make_run, tmp_path):
    folder = make_run()
    path = write_report([folder])
    assert path == folder / "report.html"
    write_report([folder])
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine")
    with pytest.raises(InputError, match=r"mine\.html is there already and is no report"):
        write_report([folder], mine)
    assert mine.read_text() == "<p>mine"
    with pytest.raises(InputError, match="is a folder; write a file"):
        write_report([folder], folder)
    with pytest.raises(InputError, match=r"cannot be written \(.*\); write another file"):
        write_report([folder], mine / "report.html")


def test_several_runs_go_to_the_current_folder(three, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_report(three)
    assert (tmp_path / "report.html").exists()


def test_a_baseline_that_was_not_measured_on_every_task_has_no_difference_there(
    make_run, tmp_path, record
):
    runs = []
    for seed in range(2):
        records = [record("twin", 0.4, 0.3, 0.5, seed=seed)]
        records += [record("student", 0.9 - 0.1 * seed, 0.8, 1.0, seed=seed)]
        records += [record("student", 0.7, 0.6, 0.8, seed=seed, task="more")]
        runs.append(make_run(f"r{seed}", seed=seed, records=records))
    text = text_of(write_report(runs, tmp_path / "all.html", "twin"))
    assert "+45.0 points" in text
    assert "suite · more · exact_match" in text


def test_the_report_and_compare_choose_the_same_twin(three, tmp_path, stages, make_run):
    models = ["teacher", "twin", "student"]
    assert default_baseline(three, models) == "twin"
    assert default_baseline(three, ["teacher", "student"]) is None
    stages["other_twin"] = stages["twin"]
    assert default_baseline([make_run("two", stages=stages)], [*models, "other_twin"]) is None
    assert default_baseline([*three, tmp_path], models) is None


def test_a_report_does_not_replace_a_pipe_or_a_link(make_run, tmp_path):
    folder = make_run()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is a device or a pipe; write a file"):
        write_report([folder], tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "link").symlink_to("all.html")
    write_report([folder], tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "all.html").exists()
