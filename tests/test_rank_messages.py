"""What several processes say when they fail is told once, and by whom where not all say it."""

import subprocess
import sys

import pytest

from llmkd.errors import InputError
from llmkd.exit_statuses import TERMINATED, as_shell, as_subprocess
from llmkd.failure import reported
from llmkd.rank_messages import error_log, others_told


@pytest.fixture
def fail(monkeypatch, tmp_path):
    """Fails as one of several processes does, with an error."""

    def as_rank(rank, error, local_rank=None):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank if local_rank is None else local_rank))
        with pytest.raises(SystemExit), reported(log=tmp_path / error_log()):
            raise error

    return as_rank


def test_what_all_say_is_told_once_by_the_first_and_at_once(fail, capfd):
    with others_told():
        for rank in (2, 0, 1):
            fail(rank, InputError("trainer.x: no"))
            assert capfd.readouterr().err == ("trainer.x: no\n" if rank == 0 else "")
    assert capfd.readouterr().err == ""


def test_what_the_first_does_not_say_is_told_with_a_rank(fail, capfd):
    with others_told():
        for rank, message in enumerate(["a", "b", "a", "b", "c"]):
            fail(rank, InputError(message))
    assert capfd.readouterr().err == "a\nrank 1: b\nrank 4: c\n"


def test_where_the_first_says_nothing_another_does(fail, capfd):
    with others_told():
        fail(2, InputError("a"))
        fail(1, InputError("a"))
    assert capfd.readouterr().err == "rank 1: a\n"


def test_the_first_of_each_machine_speaks_for_itself(fail, capfd):
    with others_told():
        fail(5, InputError("a"), local_rank=1)
        fail(4, InputError("a"), local_rank=0)
    assert capfd.readouterr().err == "a\n"


def test_one_traceback_on_another_machine_is_told_once(fail, capfd):
    with others_told():
        fail(5, ValueError("a"), local_rank=1)
        fail(4, ValueError("a"), local_rank=0)
    assert capfd.readouterr().err.count("ValueError: a") == 1


def test_each_keeps_its_own_traceback_of_one_failure(fail, capfd, tmp_path):
    with others_told():
        for rank in range(2):
            fail(rank, ValueError(f"no {rank // 2}"))
    assert capfd.readouterr().err == f"ValueError: no 0 (traceback in {tmp_path}/error.log)\n"
    for name in ("error.log", "error-rank-1.log"):
        assert "Traceback" in (tmp_path / name).read_text()


def test_without_llmkds_launcher_everybody_speaks(fail, capfd):
    fail(1, InputError("a"))
    assert capfd.readouterr().err == "a\n"


@pytest.mark.parametrize("number", [9, 15])
def test_a_signal_is_told_as_a_shell_does(number):
    died = subprocess.run(
        [sys.executable, "-c", f"import os; os.kill(os.getpid(), {number})"], check=False
    )
    assert as_shell(died.returncode) == 128 + number
    assert as_subprocess(as_shell(died.returncode)) == died.returncode
    assert [as_subprocess(as_shell(status)) for status in (0, 1, 2)] == [0, 1, 2]
    assert TERMINATED == 143
