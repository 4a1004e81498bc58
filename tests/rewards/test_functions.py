"""Rewards that are a user's own functions, and all that can go wrong with them."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import TypeAdapter

from llmkd.recipe.rewards import Reward
from llmkd.rewards.guarded import RewardError
from llmkd.rewards.rollouts import reward_function

FUNCTIONS = """\
import ctypes, os, subprocess, sys, threading
from beside import BONUS

def length_bonus(completions, completion_ids, prompts, digits, factor=1.0, **_):
    assert prompts == ["p0", "p1", "p2"]
    return [factor * (len(t) + len(i) + d + BONUS) for t, i, d in zip(completions, completion_ids, digits)]

async def later(completions, **_):
    return [None if text == "odd" else True for text in completions]

def logging(completions, trainer_state, log_extra, log_metric, **_):
    log_extra("step", [trainer_state.global_step] * len(completions))
    log_metric("longest", max(map(len, completions)))
    print("flood\\n" * 20000)
    return [os.getpid()] * len(completions)

def raising(completions, **_):
    return [1 / (text != "odd") for text in completions]

def uncounted(completions, **_):
    return [1.0 for text in completions if text != "odd"]

def giving(completions, **_):
    odd = {"nan": float("nan"), "inf": float("inf"), "text": "1.0", "list": [1.0]}
    return [odd.get(text, 1.0) for text in completions]

def exiting(completions, **_):
    return [os._exit(3) if text == "odd" else 1.0 for text in completions]

def crashing(completions, **_):
    return [ctypes.string_at(0) if text == "odd" else 1.0 for text in completions]

def hanging(completions, **_):
    if "odd" in completions:
        open("child", "w").write(str(subprocess.Popen(["sleep", "600"]).pid))
        while True:
            pass
    return [1.0] * len(completions)

def crowded(completions, **_):
    return [1 / (len(completions) == 1)]

def waiting(completions, **_):
    open("waiting", "w").write(str(os.getpid()))
    threading.Event().wait()
"""
ROWS = {"prompts": ["p0", "p1", "p2"], "completion_ids": [[1], [1, 2], []], "digits": [2, 3, 4]}
GOOD, ODD = ["a", "bb", "ccc"], ["a", "odd", "ccc"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    (tmp_path / "beside.py").write_text("BONUS = 0.5\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def function(which, /, **fields):
    reward = {"kind": "function", "function": f"mine.py:{which}", "timeout_s": 30.0, **fields}
    return reward_function(TypeAdapter(Reward).validate_python(reward), ("reward_funcs", 1))


def called(which, completions, /, *, log=None, **fields):
    noted = {} if log is None else {"log_metric": lambda name, value: log.update({name: value})}
    return function(which, **fields)(completions=completions, **ROWS, **noted)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def gone(pid):
    deadline = time.monotonic() + 30
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_alive(pid)


def test_it_is_called_with_every_column_and_its_arguments():
    # Letters, tokens and the row's own column, and the constant of the module beside it.
    assert called("length_bonus", GOOD) == [4.5, 7.5, 7.5]
    assert called("length_bonus", GOOD, arguments={"factor": -2.0}) == [-9.0, -15.0, -15.0]


def test_a_module_is_found_by_its_name_from_the_current_folder():
    assert called("", GOOD, function="mine:length_bonus") == [4.5, 7.5, 7.5]


def test_it_may_be_asynchronous_and_give_none():
    assert called("later", ODD) == [1.0, None, 1.0]


def test_it_logs_as_trl_lets_it_and_what_it_prints_holds_up_nothing(capfd):
    extra, metrics = {}, {}
    given = function("logging")(
        completions=GOOD,
        **ROWS,
        trainer_state=SimpleNamespace(global_step=7, log_history=[threading.Lock()]),
        log_extra=extra.__setitem__,
        log_metric=metrics.__setitem__,
        environments=[threading.Lock()],
    )
    assert given[0] != os.getpid()
    assert extra == {"step": [7, 7, 7]}
    assert metrics == {"longest": 3.0, "rewards/function/errors": 0.0}
    assert capfd.readouterr().out == ""


def test_its_process_is_kept_between_batches():
    logging = function("logging")
    batch = {"completions": GOOD, **ROWS, "trainer_state": None}
    noted = {"log_extra": lambda *_: None, "log_metric": lambda *_: None}
    assert logging(**batch, **noted) == logging(**batch, **noted)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("raising", r"raised ZeroDivisionError: division by zero \(mine.py, line 18\)"),
        ("uncounted", "gave 0 rewards for 1 completions"),
        ("exiting", r"took its process down \(exit status 3\)"),
        ("crashing", r"took its process down \(signal 11\)"),
    ],
)
def test_what_fails_is_told_with_its_example_or_earns_0(name, told, capsys):
    with pytest.raises(RewardError) as caught:
        called(name, ODD)
    assert caught.match(
        rf"^reward_funcs\.1: mine\.py:{name} {told}; mend it, or write on_error: zero"
    )
    assert caught.match(r"\n  completion: 'odd'\n  prompt: 'p1'\n  digits: 3$")
    log = {}
    assert called(name, ODD, on_error="zero", name="mine", log=log) == [1.0, 0.0, 1.0]
    assert log == {"rewards/mine/errors": pytest.approx(1 / 3)}
    assert "completion: 'odd'" in capsys.readouterr().err


@pytest.mark.parametrize("odd", ["nan", "inf", "text", "list"])
def test_what_is_no_number_is_no_reward(odd):
    with pytest.raises(
        RewardError, match=rf"gave .*, which is no number(?s:.*)completion: '{odd}'"
    ):
        called("giving", ["a", "b", odd])
    assert called("giving", ["a", "b", odd], on_error="zero") == [1.0, 1.0, 0.0]


def test_what_hangs_is_stopped_with_all_that_it_started_and_the_next_batch_goes_on(folder):
    log = {}
    hanging = function("hanging", timeout_s=1.0, on_error="zero")
    noted = {"log_metric": lambda name, value: log.update({name: value})}
    assert hanging(completions=ODD, **ROWS, **noted) == [1.0, 0.0, 1.0]
    assert log == {"rewards/function/errors": pytest.approx(1 / 3)}
    assert gone(int((folder / "child").read_text()))
    assert hanging(completions=GOOD, **ROWS, **noted) == [1.0, 1.0, 1.0]
    with pytest.raises(RewardError, match=r"took more than 1 s; .* larger timeout_s(?s:.*)'odd'"):
        function("hanging", timeout_s=1.0)(completions=["odd"])


@pytest.mark.parametrize("on_error", ["stop", "zero"])
def test_what_fails_only_for_a_whole_batch_is_told_so(on_error, capsys):
    told = "for 3 completions together, and for none alone"
    if on_error == "stop":
        with pytest.raises(RewardError, match=told):
            called("crowded", GOOD)
    else:
        assert called("crowded", GOOD, on_error="zero") == [0.0, 0.0, 0.0]
        assert told in capsys.readouterr().err


def test_only_the_first_failure_is_shown(capsys):
    raising = function("raising", on_error="zero")
    for _ in range(2):
        raising(completions=["odd", "odd", "a"], **ROWS)
    assert capsys.readouterr().err.count("ZeroDivisionError") == 1


def test_a_long_example_is_cut():
    long = {**ROWS, "digits": ["9" * 5000] * 3}
    with pytest.raises(RewardError, match=r"digits: '9{199}\.\.\. \(5002 letters\)"):
        function("raising")(completions=["odd"] * 3, **long)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("mine.py:nothing", "has no attribute 'nothing'"),
        ("broken.py:f", "cannot be loaded .SyntaxError"),
        ("no_such_module:f", "cannot be loaded .ModuleNotFoundError"),
        ("leaving.py:f", "cannot be loaded .SystemExit"),
    ],
)
def test_a_function_that_cannot_be_loaded_is_told_at_once_and_never_forgiven(source, told, folder):
    (folder / "broken.py").write_text("def f(:\n")
    (folder / "leaving.py").write_text("raise SystemExit\n")
    with pytest.raises(RewardError, match=rf"^reward_funcs\.1: .*{told}"):
        function("", function=source, on_error="zero")


def test_ctrl_c_comes_through_and_ends_the_process(folder):
    def interrupt():
        while not (folder / "waiting").exists() or not (folder / "waiting").read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    waiting = function("waiting")
    # Python leaves the signal ignored where its parent ignores it, as shells do for background jobs.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            waiting(completions=GOOD, **ROWS)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert gone(int((folder / "waiting").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel takes nobody along")
def test_a_training_that_is_killed_leaves_no_process_behind(folder):
    program = (
        "from llmkd.recipe.rewards import FunctionReward\n"
        "from llmkd.rewards.rollouts import reward_function\n"
        "reward = FunctionReward(kind='function', function='mine.py:waiting')\n"
        "reward_function(reward)(completions=['a'])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    written = folder / "waiting"
    while not written.exists() or not written.read_text():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert gone(int(written.read_text()))


def test_the_process_ends_with_its_function():
    logging = function("logging")
    noted = {"log_extra": lambda *_: None, "log_metric": lambda *_: None}
    pid = int(logging(completions=GOOD, **ROWS, trainer_state=None, **noted)[0])
    assert is_alive(pid)
    del logging
    assert gone(pid)
