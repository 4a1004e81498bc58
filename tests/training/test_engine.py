"""What engines are refused, and that a checkpoint goes on under the engine that wrote it."""

import json
from types import SimpleNamespace

import pytest
from transformers import TrainingArguments
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

from llmkd.errors import InputError
from llmkd.training import engine as engine_module
from llmkd.training.engine import (
    ENGINE_FILE,
    check_engine,
    check_engine_of,
    deepspeed_agrees,
    write_engine,
)
from llmkd.training.train import run_train


def trainer(*, stage=None, gathers=True, fsdp=None, count=2, optim="adamw_torch"):
    """What is looked at of a trainer: the ZeRO stage, or the version of FSDP."""
    kept = {"stage3_gather_16bit_weights_on_model_save": gathers}
    deepspeed = SimpleNamespace(zero_stage=stage, deepspeed_config={"zero_optimization": kept})
    state = SimpleNamespace(
        deepspeed_plugin=None if stage is None else deepspeed,
        fsdp_plugin=None if fsdp is None else SimpleNamespace(fsdp_version=fsdp),
    )
    accelerator = SimpleNamespace(state=state, num_processes=count)
    args = SimpleNamespace(optim=optim)
    return SimpleNamespace(is_fsdp_enabled=fsdp is not None, accelerator=accelerator, args=args)


@pytest.mark.parametrize(
    "engine",
    [{}, {"stage": 2, "gathers": False}, {"stage": 3}, {"fsdp": 2}, {"optim": "adafactor"}],
)
def test_engines_that_work_pass(engine):
    check_engine(trainer(**engine))


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"stage": 3, "gathers": False}, "could not be saved whole; write zero3_save_16bit_model"),
        ({"fsdp": 1}, "write fsdp_version: 2"),
        ({"fsdp": 2, "optim": "adafactor"}, "trainer.optim: adafactor goes by.*write adamw_torch"),
        ({"stage": 1, "optim": "galore_adamw"}, "galore_adamw.*take --launch ddp"),
    ],
)
def test_others_are_refused_with_what_to_write(engine, message):
    with pytest.raises(InputError, match=message):
        check_engine(trainer(**engine))


def test_settings_of_deepspeed_that_are_not_the_recipes_are_named(monkeypatch):
    config = HfTrainerDeepSpeedConfig(
        {
            "zero_optimization": {"stage": 2},
            "gradient_accumulation_steps": 1,
            "gradient_clipping": 0.5,
        }
    )
    arguments = TrainingArguments(gradient_accumulation_steps=2)
    config.trainer_config_process(arguments)
    said = r"gradient_accumulation_steps=1 vs hf.*=2; ds .*; write the recipe's there"
    with pytest.raises(InputError, match=said), deepspeed_agrees():
        config.trainer_config_finalize(arguments, None, 10)


def test_other_errors_of_a_value_stay_what_they_are():
    with pytest.raises(ValueError, match="something else"), deepspeed_agrees():
        raise ValueError("something else")


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (
            {"stage": 3},
            {"stage": 2},
            "written by zero3 with 2 processes, and this is zero2 .*--launch zero3 --num-processes 2",
        ),
        ({"stage": 3}, {"stage": 3, "count": 4}, "this is zero3 with 4 processes"),
        ({"fsdp": 2}, {}, "--launch fsdp2 --num-processes 2"),
        ({"count": 1}, {"stage": 1}, "written by one process.*run it without --launch"),
    ],
)
def test_another_one_is_refused_with_the_options_to_write(tmp_path, one, other, message):
    write_engine(trainer(**one), tmp_path)
    check_engine_of(tmp_path, trainer(**one))
    with pytest.raises(InputError, match=message):
        check_engine_of(tmp_path, trainer(**other))


@pytest.mark.parametrize("engine", [{}, {"fsdp": 2}])
def test_whole_states_are_read_by_any_number_of_processes(tmp_path, engine, capsys):
    write_engine(trainer(**engine), tmp_path)
    check_engine_of(tmp_path, trainer(**engine, count=3))
    assert "with 2 processes, and this is" in capsys.readouterr().err


def test_a_checkpoint_of_before_goes_on(tmp_path):
    check_engine_of(tmp_path, trainer())


def test_a_stage_asks(train_stage, tmp_path, monkeypatch):
    run_train(train_stage({"save_steps": 2}), tmp_path, name="s", seed=0)
    newest = max((tmp_path / "checkpoints").glob("checkpoint-*"))
    assert json.loads((newest / ENGINE_FILE).read_text()) == {"engine": "ddp", "num_processes": 1}
    monkeypatch.setattr(
        engine_module, "engine_of", lambda _: {"engine": "zero3", "num_processes": 8}
    )
    with pytest.raises(InputError, match="written by one process, and this is zero3 with 8"):
        run_train(train_stage({"save_steps": 2}), tmp_path, name="s", seed=0)
    # Refused, it leaves the later ones where they are.
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    earliest = min((tmp_path / "checkpoints").glob("checkpoint-*"))
    assert earliest != newest
    with pytest.raises(InputError, match="written by one process"):
        run_train(train_stage({"save_steps": 2}, resume=str(earliest)), tmp_path, name="s", seed=0)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == names
