import warnings
from types import SimpleNamespace

import pytest

from llmkd import run_stage as module
from llmkd.quiet_libraries import quiet_libraries
from llmkd.recipe.schema import Recipe
from llmkd.run_folder import StageState, read_stage, write_stage
from llmkd.run_plan import Run
from llmkd.run_stage import is_main, run_stage

STAGE = {
    "kind": "train",
    "student": {"kind": "scratch", "config": {"model_type": "llama"}},
    "data": {"kind": "task", "num_examples": 9},
    "losses": [{"kind": "cross_entropy"}],
}


@pytest.fixture
def job(tmp_path):
    """A run with one stage."""
    content = {"name": "tiny", "output_dir": str(tmp_path), "stages": {"student": STAGE}}
    return Run(Recipe.model_validate(content))


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    clock = SimpleNamespace(at=100.0, monotonic=lambda: clock.at)
    monkeypatch.setattr(module, "time", clock)
    return clock


def state_of(job):
    state = read_stage(job.stage_folder("student"))
    assert state is not None
    return state


def attempt(job, clock, monkeypatch, seconds, error=None):
    def do(*_):
        clock.at += seconds
        if error:
            raise error

    monkeypatch.setattr(module, "_do", do)
    run_stage(job, "student")


def test_a_stages_seconds_are_summed_over_its_attempts(job, clock, monkeypatch):
    with pytest.raises(SystemExit):
        attempt(job, clock, monkeypatch, 10.0, SystemExit(143))
    assert (state_of(job).is_finished, state_of(job).seconds) == (False, 10.0)
    with pytest.raises(RuntimeError):
        attempt(job, clock, monkeypatch, 3.0, RuntimeError())
    attempt(job, clock, monkeypatch, 5.5)
    assert (state_of(job).is_finished, state_of(job).seconds) == (True, 18.5)
    assert state_of(job).ended is not None
    # A finished stage whose product is gone is done anew.
    attempt(job, clock, monkeypatch, 2.0)
    assert state_of(job).seconds == 2.0


def test_a_stage_begun_before_times_were_kept_goes_on(job, clock, monkeypatch):
    write_stage(job.stage_folder("student"), StageState("f", {}, is_finished=False))
    attempt(job, clock, monkeypatch, 5.0)
    assert state_of(job).seconds == 5.0


def test_a_clusters_rank_does_not_make_a_lone_process_one_of_several(job, clock, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("RANK", "1")
    attempt(job, clock, monkeypatch, 5)
    assert state_of(job).is_finished
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert not is_main()


def test_what_engines_warn_of_in_every_step_is_not_shown_and_other_warnings_are(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    older = "`torch.distributed.reduce_scatter_tensor` is deprecated. Please use another."
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        quiet_libraries()
        warnings.warn(older, FutureWarning, stacklevel=1)
        warnings.warn("`torch.something` is deprecated", FutureWarning, stacklevel=1)
    assert [str(each.message) for each in shown] == ["`torch.something` is deprecated"]
