import pytest

from llmkd.errors import InputError
from llmkd.evaluation.compare import compare_runs, markdown
from llmkd.evaluation.results import Record, write_results


@pytest.fixture
def make_runs(tmp_path):
    """Runs with one value per model, task and seed."""

    def make(metric="exact_match", **values):
        folders = []
        for seed in range(2):
            found = [
                Record(model, "s", task, metric, each[seed], 0.0, 1.0, 9, seed)
                for model, tasks in values.items()
                for task, each in tasks.items()
            ]
            folders.append(tmp_path / f"run-{seed}")
            write_results(folders[-1] / "results.json", found)
        return folders

    return make


def test_differences_are_paired_by_seed_and_shares_differ_by_points(make_runs):
    runs = make_runs(twin={"sums": (0.4, 0.5)}, student={"sums": (0.9, 0.9)})
    twin, student = compare_runs(runs, "twin")
    assert student.difference == pytest.approx(0.45)
    assert twin.difference is None
    assert "+45.0 points [" in markdown([twin, student])


def test_other_differences_have_no_unit(make_runs):
    runs = make_runs("perplexity", twin={"text": (4.0, 5.0)}, student={"text": (3.0, 4.0)})
    assert "-1 [-1, -1]" in markdown(compare_runs(runs, "twin"))


def test_where_the_baseline_was_not_measured_there_is_no_difference(make_runs):
    runs = make_runs(twin={"sums": (0.4, 0.5)}, student={"sums": (0.9, 0.9), "more": (0.7, 0.8)})
    found = {(row.model, row.task): row.difference for row in compare_runs(runs, "twin")}
    assert found["student", "sums"] is not None
    assert found["student", "more"] is None


def test_an_unknown_baseline_is_refused_with_the_models_in_their_order(make_runs):
    names = ["zeta", "alpha", "mid", "beta"]
    runs = make_runs(**{name: {"sums": (0.4, 0.5)} for name in names})
    with pytest.raises(InputError, match="write one of zeta, alpha, mid, beta"):
        compare_runs(runs, "nobody")
