"""What `--launch` and its options become: a command of accelerate's launcher."""

import sys

import pytest
import yaml

from llmkd.errors import InputError
from llmkd.launch import launch_of, refuse_other_launchers
from llmkd.launch_files import ENGINES
from llmkd.recipe.shipped import shipped_recipes

FAR = {
    "num_processes": 32,
    "num_machines": 4,
    "main_process_ip": "10.0.0.1",
    "main_process_port": 29500,
}


def options(command):
    """The options of a command before its module, by name."""
    told = command[5 : command.index("--module")]
    return dict(zip(told[::2], told[1::2], strict=True))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_is_a_file_that_is_shipped_and_that_accelerate_reads(engine):
    command = launch_of(engine, num_processes=2).command("llmkd.stage_process", "run", "student")
    assert command[:4] == [sys.executable, "-P", "-m", "llmkd.launched"]
    assert command[-4:] == ["--module", "llmkd.stage_process", "run", "student"]
    told = options(command)
    assert told["--num_processes"] == "2"
    # A port that is free is looked for.
    assert told["--main_process_port"] == "0"
    from accelerate.commands.config.config_args import load_config_from_file

    read = load_config_from_file(told["--config_file"])
    kind = {"ddp": "MULTI_GPU", "fsdp2": "FSDP"}.get(engine, "DEEPSPEED")
    assert read.distributed_type == kind
    if kind == "DEEPSPEED":
        assert read.deepspeed_config["zero_stage"] == int(engine[-1])
    if kind == "FSDP":
        assert read.fsdp_config["fsdp_version"] == 2


def test_launchers_files_are_no_recipes():
    assert not {path.stem for path in shipped_recipes()} & set(ENGINES)


def test_machines_get_what_they_find_each_other_by():
    told = options(launch_of("zero3", machine_rank=3, **FAR).command("llmkd", "train", "r.yaml"))
    assert told["--num_machines"] == "4"
    assert told["--machine_rank"] == "3"
    assert told["--main_process_ip"] == "10.0.0.1"
    assert told["--main_process_port"] == "29500"


def test_a_file_of_the_users_own_says_how_many_processes(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"distributed_type": "MULTI_GPU", "num_processes": 6}))
    told = options(launch_of(str(file)).command("llmkd"))
    assert told["--config_file"] == str(file)
    assert "--num_processes" not in told


@pytest.mark.parametrize(
    ("engine", "given", "message"),
    [
        ("zero4", {}, r"--launch: no such engine or file zero4; did you mean .*zero"),
        ("ddp", {"num_processes": 0}, r"--num-processes: 0; write 1 or more"),
        ("ddp", {"main_process_port": 2**16}, r"--main-process-port: 65536; write 1 to 65535"),
        ("ddp", FAR | {"num_processes": 5}, r"--num-processes: 5 .*multiple of --num-machines"),
        ("ddp", FAR | {"num_processes": None}, r"--num-processes: missing"),
        ("ddp", {"num_machines": 0}, r"--num-machines: 0; write 1 or more"),
        ("ddp", FAR | {"machine_rank": 4}, r"--machine-rank: 4 is none of 4; write 0 to 3"),
        ("ddp", {"num_processes": 4, "num_machines": 2}, r"--main-process-ip, --main-process-port"),
        (None, {"num_processes": 2}, r"--num-processes.*write --launch ddp"),
        (None, {"machine_rank": 1}, r"--machine-rank.*write --launch ddp"),
        (None, {"main_process_port": 29500}, r"--main-process-port.*write --launch ddp"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_write(engine, given, message):
    with pytest.raises(InputError, match=message):
        launch_of(engine, **given)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("", "no file of accelerate's launcher, which has a distributed_type"),
        ("student: {}", "no file of accelerate's launcher"),
        ("distributed_type: FSDP", "write fsdp_version: 2"),
        ("{distributed_type: FSDP, fsdp_config: {fsdp_version: 1}}", "write fsdp_version: 2"),
        ("{distributed_type: FSDP, fsdp_config: x}", "write fsdp_version: 2"),
    ],
)
def test_files_that_no_training_can_be_launched_by_are_refused(tmp_path, content, message):
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(InputError, match=message):
        launch_of(str(tmp_path / "mine.yaml"))


def test_a_files_precision_is_said_to_count_for_nothing(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("{distributed_type: MULTI_GPU, mixed_precision: bf16}")
    launch_of(str(file))
    assert "which says trainer.bf16: true" in capsys.readouterr().err


def test_nobody_waits_for_processes_that_another_launcher_would_have_to_start(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    refuse_other_launchers(None, is_launched=False)
    refuse_other_launchers(launch_of("ddp"), is_launched=False)
    refuse_other_launchers(None, is_launched=True)
    with pytest.raises(InputError, match="leave --launch out"):
        refuse_other_launchers(launch_of("ddp"), is_launched=True)
    monkeypatch.setenv("WORLD_SIZE", "4")
    # Its own launcher has its own numbers.
    refuse_other_launchers(launch_of("ddp"), is_launched=False)
    with pytest.raises(InputError, match="WORLD_SIZE is 4, and no launcher"):
        refuse_other_launchers(None, is_launched=False)


def test_without_launch_one_process_trains():
    assert launch_of(None) is None
