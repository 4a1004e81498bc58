"""Trackers show what metrics.jsonl holds, and whatever they do, the training goes on."""

import gc
import json

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.integrations import integration_utils

from llmkd.errors import InputError
from llmkd.training.checkpoints import checkpoint_steps
from llmkd.training.trackers import EVENTS, Trackers, tracker_names
from llmkd.training.train import build_trainer, run_train


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def curve(folder, name):
    """Steps and values of a TensorBoard curve, over all files of the folder."""
    read = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in read.Scalars(name)]


@pytest.fixture
def stand_in(monkeypatch):
    """Puts a class in the place of one of transformers' integrations."""

    def put(name, kind):
        monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, name, kind)

    return put


def raising(where, error):
    """A tracker that fails in one event, or in its construction, and counts its calls."""
    calls = []

    def fail(self, *args, **kwargs):
        calls.append(where)
        raise error

    return type("Raising", (TrainerCallback,), {where: fail}), calls


def test_tensorboard_shows_what_the_metrics_file_holds(train_stage, tmp_path):
    run_train(train_stage({"report_to": "tensorboard"}), tmp_path / "s", name="s", seed=0)
    found = curve(tmp_path / "s" / "tensorboard", "train/loss/cross_entropy")
    written = [(line["step"], line["loss/cross_entropy"]) for line in metrics(tmp_path / "s")]
    assert [step for step, _ in found] == [1, 2, 3, 4, 5, 6]
    assert found == [(step, pytest.approx(value, rel=1e-6)) for step, value in written]
    assert not (tmp_path / "s" / "checkpoints" / "runs").exists()


def test_a_resumed_run_goes_on_in_the_same_curve(train_stage, tmp_path):
    stage = train_stage({"report_to": "tensorboard"})
    run_train(stage, tmp_path / "whole", name="s", seed=0)

    class CrashError(Exception):
        pass

    class Crash(TrainerCallback):
        def on_log(self, args, state, control, **_):
            if state.global_step == 5:
                raise CrashError

    trainer = build_trainer(stage, tmp_path / "cut", seed=0)
    trainer.add_callback(Crash())
    with pytest.raises(CrashError):
        trainer.train()
    # Step 5 is logged, and will be taken again.
    assert list(checkpoint_steps(tmp_path / "cut" / "checkpoints")) == [2, 4]
    assert curve(tmp_path / "cut" / "tensorboard", "train/loss")[-1][0] == 5
    run_train(stage, tmp_path / "cut", name="s", seed=0)
    whole, cut = (
        curve(tmp_path / run / "tensorboard", "train/loss/forward_kl") for run in ("whole", "cut")
    )
    assert cut == whole


def test_starting_over_empties_the_curve(train_stage, tmp_path):
    run_train(train_stage({"report_to": "tensorboard"}), tmp_path / "s", name="s", seed=0)
    again = train_stage({"report_to": "tensorboard", "max_steps": 2}, resume="never")
    run_train(again, tmp_path / "s", name="s", seed=0)
    steps = [step for step, _ in curve(tmp_path / "s" / "tensorboard", "train/loss")]
    assert steps == [1, 2]


@pytest.fixture(scope="session")
def undisturbed():
    """Weights of a run without trackers, once they are known."""
    return {}


@pytest.mark.parametrize(
    "error", [RuntimeError("no network"), SystemExit(1)], ids=["error", "exit"]
)
@pytest.mark.parametrize("where", ["__init__", *EVENTS])
def test_a_tracker_that_fails_anywhere_is_named_once_and_changes_nothing(
    train_stage, tmp_path, capsys, stand_in, undisturbed, where, error
):
    if not undisturbed:
        run_train(train_stage({"max_steps": 2}), tmp_path / "plain", name="s", seed=0)
        undisturbed.update(weights(tmp_path / "plain"))
    kind, calls = raising(where, error)
    stand_in("wandb", kind)
    trainer = {"max_steps": 2, "report_to": ["wandb"], "gradient_accumulation_steps": 1}
    run_train(train_stage(trainer), tmp_path / "s", name="s", seed=0)
    said = f"tracker wandb: {type(error).__name__}: {error}; training goes on without it"
    assert len(calls) <= 1
    assert capsys.readouterr().err.count(said) == len(calls)
    assert len(metrics(tmp_path / "s")) == 2
    ours = weights(tmp_path / "s")
    assert all(torch.equal(ours[name], undisturbed[name]) for name in undisturbed)


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_reaches_every_tracker_that_still_runs(tmp_path, capsys, stand_in, event):
    first, first_calls = raising(event, ValueError("first"))
    seen = []
    second = type(
        "Seeing", (TrainerCallback,), {event: lambda self, *a, **k: seen.append((len(a), k))}
    )
    stand_in("mlflow", first)
    stand_in("wandb", second)
    trackers = Trackers(["mlflow", "wandb"], tmp_path)
    for _ in range(2):
        getattr(trackers, event)(None, TrainerState(), TrainerControl(), logs={"loss": 1.0})
    assert len(first_calls) == 1
    assert seen == [(3, {"logs": {"loss": 1.0}})] * 2
    assert capsys.readouterr().err.count("tracker mlflow: ValueError: first") == 1


def test_ctrl_c_is_not_swallowed(tmp_path, stand_in):
    kind, _ = raising("on_step_end", KeyboardInterrupt())
    stand_in("wandb", kind)
    trackers: TrainerCallback = Trackers(["wandb"], tmp_path)
    with pytest.raises(KeyboardInterrupt):
        trackers.on_step_end(None, TrainerState(), TrainerControl())


def test_each_tracker_is_built_once_and_cannot_stop_the_training(train_stage, tmp_path, stand_in):
    built = []

    class Stopping(TrainerCallback):
        def __init__(self):
            built.append(self)

        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = True
            return control

    stand_in("wandb", Stopping)
    run_train(train_stage({"report_to": ["wandb", "wandb"]}), tmp_path / "s", name="s", seed=0)
    assert len(built) == 1
    assert len(metrics(tmp_path / "s")) == 6


def test_a_tracker_that_is_not_installed_is_named_with_what_to_install(
    train_stage, tmp_path, capsys, monkeypatch
):
    names = ["wandb", "tensorboard", "mlflow"]
    for name in names:
        monkeypatch.setattr(integration_utils, f"is_{name}_available", lambda: False)
    stage = train_stage({"report_to": names, "max_steps": 2})
    run_train(stage, tmp_path / "s", name="s", seed=0)
    err = capsys.readouterr().err
    for name in names:
        said = f"tracker {name}: its package is not installed; pip install {name}; training goes on"
        assert err.count(said) == 1
    assert len(metrics(tmp_path / "s")) == 2


def test_a_tracker_that_nobody_knows_is_refused():
    with pytest.raises(InputError, match=r"no such tracker wandbb; did you mean `wandb`\?"):
        tracker_names(["tensorboard", "wandbb"])
    with pytest.raises(InputError, match=r"write one of .*tensorboard"):
        tracker_names("xyz")


def test_a_tracker_that_was_not_built_whole_is_not_asked_to_clean_up(tmp_path, stand_in):
    asked = []

    class Half(TrainerCallback):
        def __init__(self):
            raise RuntimeError("no server")

        def __del__(self):
            asked.append(self)

    stand_in("mlflow", Half)
    Trackers(["mlflow"], tmp_path)
    gc.collect()
    assert asked == []


def test_what_to_install_is_the_package_that_the_tracker_names(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(integration_utils, "is_azureml_available", lambda: False)
    Trackers(["azure_ml"], tmp_path)
    assert "not installed; pip install azureml-sdk; training" in capsys.readouterr().err


@pytest.mark.parametrize("nothing", [None, "none", ["none"], []])
def test_none_is_none(nothing):
    assert tracker_names(nothing) == []


@pytest.mark.parametrize("everything", ["all", ["all"]])
def test_all_are_those_installed_and_a_broken_one_does_not_stop_the_run(
    everything, monkeypatch, capsys
):
    assert "tensorboard" in tracker_names(everything)

    def broken():
        raise SyntaxError("not for this Python")

    monkeypatch.setattr(integration_utils, "is_wandb_available", broken)
    assert tracker_names(everything) == []
    assert "SyntaxError: not for this Python" in capsys.readouterr().err


def test_kubeflow_which_transformers_adds_by_itself_is_survived_too(
    train_stage, tmp_path, capsys, stand_in, monkeypatch
):
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", "http://nowhere")
    kind, calls = raising("on_train_begin", OSError("no server"))
    stand_in("kubeflow", kind)
    trainer = {"max_steps": 2, "report_to": "kubeflow"}
    run_train(train_stage(trainer), tmp_path / "s", name="s", seed=0)
    assert len(calls) == 1
    assert "tracker kubeflow: OSError: no server" in capsys.readouterr().err
