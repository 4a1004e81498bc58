from types import SimpleNamespace

import pytest

from llmkd import run_stage as module
from llmkd.recipe.schema import Recipe
from llmkd.run_folder import StageState, read_stage, write_stage
from llmkd.run_plan import Run
from llmkd.run_stage import run_stage

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
