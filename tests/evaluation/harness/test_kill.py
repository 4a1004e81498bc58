"""Real processes that are killed while they measure, and what goes on after them."""

import multiprocessing
import os
import signal
from dataclasses import replace

import pytest

from llmkd.evaluation.harness.measure import measure_harness
from tests.evaluation.harness.conftest import CHOICE, TEXT, WRITTEN

# A process each time.
pytestmark = pytest.mark.slow

NUM_BATCHES = {"choice": 5, "written": 5, "text": 5}
DEFINITIONS = {"choice": CHOICE, "written": WRITTEN, "text": TEXT}


@pytest.fixture
def num_calls(subject):
    """Counts the forward passes over a prompt: as many as there are batches."""
    counted = []
    subject.model.register_forward_pre_hook(
        lambda module, args, kwargs: counted.append(
            (args[0] if args else kwargs["input_ids"]).shape[1] > 1
        ),
        with_kwargs=True,
    )
    return lambda: sum(counted)


def killed_after(num_batches, subject, task, setting):
    """Measures in a process of its own that kills itself when the next batch is asked for."""

    def measure():
        asked = []

        def count(module, args, kwargs):
            asked.append((args[0] if args else kwargs["input_ids"]).shape[1] > 1)
            if sum(asked) > num_batches:
                os.kill(os.getpid(), signal.SIGKILL)

        subject.model.register_forward_pre_hook(count, with_kwargs=True)
        measure_harness(subject, task, setting)

    process = multiprocessing.get_context("fork").Process(target=measure)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_a_killed_evaluation_asks_what_is_left_and_has_the_same_bits(
    kind, make_task, subject, setting, tmp_path, num_calls
):
    task = make_task(DEFINITIONS[kind])
    whole = measure_harness(subject, task, setting())
    assert num_calls() == NUM_BATCHES[kind]
    within = setting(folder=tmp_path / "kept")
    killed_after(3, subject, task, within)
    continued = measure_harness(subject, task, within)
    assert num_calls() == NUM_BATCHES[kind] + NUM_BATCHES[kind] - 3
    same(continued, whole)
    # All is there now.
    same(measure_harness(subject, task, within), whole)
    assert num_calls() == NUM_BATCHES[kind] + NUM_BATCHES[kind] - 3


def test_a_batch_that_a_kill_cut_in_two_is_asked_again(
    make_task, subject, setting, tmp_path, num_calls
):
    task, within = make_task(CHOICE), setting(folder=tmp_path / "kept")
    whole = measure_harness(subject, task, within)
    (path,) = (tmp_path / "kept").iterdir()
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + NUM_BATCHES["choice"]
    path.write_bytes(b"".join(lines[:3]) + lines[3][:-20])
    before = num_calls()
    same(measure_harness(subject, task, within), whole)
    assert num_calls() - before == 3


def test_equal_rows_are_asked_as_often_as_they_are_there(
    make_task, subject, setting, tmp_path, write_rows, num_calls
):
    rows = [{"sum": "1+2", "answer": "3", "label": 2}] * 7 + [
        {"sum": f"{i}+1", "answer": "1", "label": 0} for i in range(5)
    ]
    task = make_task(WRITTEN, data={"dataset_name": write_rows(rows, "equal.jsonl")})
    whole, before = measure_harness(subject, task, setting()), num_calls()
    within = setting(folder=tmp_path / "kept")
    # The seven equal rows are in two batches, of which the first is there.
    killed_after(1, subject, task, within)
    same(measure_harness(subject, task, within), whole)
    assert num_calls() - before == 2


@pytest.mark.parametrize("changed", [{"seed": 4}, {"batch_size": 4}])
def test_answers_under_other_settings_are_not_taken(
    changed, make_task, subject, setting, tmp_path, num_calls
):
    task, within = make_task(CHOICE), setting(folder=tmp_path / "kept")
    measure_harness(subject, task, within)
    before = num_calls()
    measure_harness(subject, task, replace(within, **changed))
    assert num_calls() - before >= NUM_BATCHES["choice"]


def test_drawn_answers_are_drawn_again(make_task, subject, setting, tmp_path):
    drawn = {"do_sample": True, "temperature": 1.0}
    task, within = make_task(WRITTEN, generation_kwargs=drawn), setting(folder=tmp_path / "kept")
    killed_after(2, subject, task, within)
    same(measure_harness(subject, task, within), measure_harness(subject, task, setting()))


def same(found, wanted):
    assert [(one.metric, one.found.interval) for one in found.estimates] == [
        (one.metric, one.found.interval) for one in wanted.estimates
    ]
    assert found.details == wanted.details
