"""What the teacher and the rewards weigh at each step, and what guards do."""

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from llmkd.errors import LlmkdError
from llmkd.recipe.kdrl import (
    GRPO,
    KDRL,
    OPD,
    Guard,
    OPDThenRL,
    SwitchAtPlateau,
    SwitchAtStep,
)
from llmkd.recipe.losses import CosineSchedule, LinearSchedule
from llmkd.training.guards import Guards
from llmkd.training.phases import Phases, Plateau

PAPER = LinearSchedule(kind="linear", start=5e-3, end=1e-3, num_steps=80)


@pytest.fixture
def event(tmp_path):
    """The arguments of a callback's event at a step."""
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)

    def at(step, max_steps=100):
        return arguments, TrainerState(global_step=step, max_steps=max_steps), TrainerControl()

    return at


def weights(phases, steps):
    return [(phases.coefficient(step), phases.reward_weight(step)) for step in steps]


def test_each_objective_weighs_the_two_as_its_name_says():
    steps = (0, 59, 60, 200)
    switched = OPDThenRL(
        kind="opd_then_rl", coefficient=0.5, switch=SwitchAtStep(kind="step", step=60)
    )
    assert weights(Phases(GRPO(kind="grpo")), steps) == [(0, 1)] * 4
    assert weights(Phases(OPD(kind="opd", coefficient=0.5)), steps) == [(0.5, 0)] * 4
    assert weights(Phases(KDRL(coefficient=0.2)), steps) == [(0.2, 1)] * 4
    assert weights(Phases(switched), steps) == [(0.5, 0), (0.5, 0), (0, 1), (0, 1)]


def test_the_papers_annealing_falls_by_5e_5_a_step_to_its_floor():
    coefficient = Phases(KDRL(coefficient=PAPER)).coefficient
    assert coefficient(0) == 5e-3
    assert coefficient(1) == pytest.approx(5e-3 - 5e-5)
    assert coefficient(79) == pytest.approx(1e-3 + 5e-5)
    assert coefficient(80) == coefficient(280) == pytest.approx(1e-3)


def test_a_schedule_without_an_end_takes_the_whole_training(event):
    phases = Phases(KDRL(coefficient=CosineSchedule(kind="cosine", start=1.0, end=0.0)))
    phases.on_train_begin(*event(0, max_steps=40))
    assert phases.coefficient(20) == pytest.approx(0.5)
    assert phases.coefficient(40) == pytest.approx(0)


@pytest.fixture
def plateau():
    rule = SwitchAtPlateau(kind="plateau", min_gain=0.02, patience=2)
    phases = Phases(OPDThenRL(kind="opd_then_rl", switch=rule))
    return Plateau(rule, phases, "number"), phases


def validate(callback, event, accuracies):
    for index, accuracy in enumerate(accuracies):
        callback.on_evaluate(*event(10 * index), metrics={"eval_rewards/number/mean": accuracy})


def test_the_second_phase_begins_when_the_accuracy_has_not_risen_twice(plateau, event):
    callback, phases = plateau
    # Rises by 0.3, by 0.1, by 0.01 from its best, not at all.
    validate(callback, event, [0.1, 0.4, 0.5, 0.51, 0.505])
    assert phases.switch_step == 40
    assert (phases.coefficient(39), phases.coefficient(40)) == (1, 0)


def test_a_rise_begins_the_count_anew(plateau, event):
    callback, phases = plateau
    validate(callback, event, [0.1, 0.1, 0.3, 0.3, 0.5])
    assert phases.switch_step is None


def test_what_was_switched_stays_switched(plateau, event):
    callback, phases = plateau
    validate(callback, event, [0.5, 0.5, 0.5, 0.9, 0.9, 0.9])
    assert phases.switch_step == 20


def test_a_resumed_training_counts_on(plateau, event):
    callback, phases = plateau
    validate(callback, event, [0.5, 0.5])
    again = Plateau(callback.rule, phases, "number")
    again.restore(callback.state())
    again.on_evaluate(*event(20), metrics={"eval_rewards/number/mean": 0.5})
    assert phases.switch_step == 20


def log(guards, event, name, values):
    for step, value in enumerate(values, 1):
        guards.on_log(*event(step), logs={name: value})


def test_a_guard_stops_a_run_that_stays_beyond_its_limit(event):
    guard = Guard(metric="completion_length", above=100, patience=3)
    guards = Guards([guard], Phases(KDRL()))
    log(guards, event, "completions/mean_length", [120, 130, 99, 120, 130])
    with pytest.raises(
        LlmkdError, match=r"guards.0: step 6: completion_length is 140, and was above 100 for 3"
    ):
        guards.on_log(*event(6), logs={"completions/mean_length": 140})


def test_a_guard_softens_each_time_and_the_checkpoint_knows(event):
    guard = Guard(metric="entropy", below=0.1, patience=2, action="soften")
    phases = Phases(KDRL(coefficient=0.8))
    log(Guards([guard], phases), event, "entropy", [0.05] * 5)
    assert phases.coefficient(5) == pytest.approx(0.2)
    again = Phases(KDRL(coefficient=0.8))
    again.restore(phases.state())
    assert again.coefficient(5) == pytest.approx(0.2)


def test_what_is_not_logged_neither_counts_nor_ends_a_row(event):
    guard = Guard(metric="reverse_kl", above=1, patience=2)
    guards = Guards([guard], Phases(KDRL()))
    guards.on_log(*event(1), logs={"kd/reverse_kl": 2.0})
    guards.on_log(*event(2), logs={"loss": 1.0})
    guards.on_log(*event(3), logs={"kd/reverse_kl": None})
    with pytest.raises(LlmkdError, match="reverse_kl is 3"):
        guards.on_log(*event(4), logs={"kd/reverse_kl": 3.0})


def test_a_limit_can_have_two_sides(event):
    guards = Guards([Guard(metric="entropy", above=3, below=1, patience=2)], Phases(KDRL()))
    guards.on_log(*event(1), logs={"entropy": 0.5})
    with pytest.raises(LlmkdError, match="above 3 or below 1"):
        guards.on_log(*event(2), logs={"entropy": 4.0})


def test_a_training_that_goes_on_with_other_guards_counts_from_0(event):
    first = Guards([Guard(metric="entropy", below=0.1, patience=3)], Phases(KDRL()))
    log(first, event, "entropy", [0.05] * 2)
    two = [Guard(metric="entropy", below=0.1, patience=2), Guard(metric="reverse_kl", above=1.0)]
    again = Guards(two, Phases(KDRL()))
    again.restore(first.state())
    log(again, event, "entropy", [0.05])
    assert again.num_crossed == [1, 0]


def test_a_step_that_the_recipe_names_is_the_recipes_in_a_resumed_training_too():
    at = [
        Phases(OPDThenRL(kind="opd_then_rl", switch=SwitchAtStep(kind="step", step=step)))
        for step in (48, 60)
    ]
    at[1].restore(at[0].state())
    assert (at[1].is_second(59), at[1].is_second(60)) == (False, True)


def test_nothing_is_softened_once_rewards_alone_are_left(event):
    switch = SwitchAtStep(kind="step", step=2)
    phases = Phases(OPDThenRL(kind="opd_then_rl", switch=switch))
    guard = Guard(metric="entropy", below=0.1, patience=2, action="soften")
    log(Guards([guard], phases), event, "entropy", [0.05] * 5)
    assert phases.softness == 1
