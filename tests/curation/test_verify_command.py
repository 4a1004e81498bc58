import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llmkd.curation import limited as limited_program
from llmkd.curation.programs import Programs
from llmkd.curation.verify_command import verdict_of
from llmkd.errors import InputError
from llmkd.recipe.curation_steps import VerifyCommandStep

# By the row's `do`; each is a way in which somebody's program may end.
PROGRAM = """
import json, os, signal, subprocess, sys, time
row = json.load(sys.stdin)
if row["do"] == "hang":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    open(row["pids"], "w").write(f"{os.getpid()} {child.pid}")
    time.sleep(30)
    open(row["pids"], "a").write(" waited for")
if row["do"] == "wait":
    while not os.path.exists(row["pids"]) or not os.path.getsize(row["pids"]):
        time.sleep(0.01)
if row["do"] == "die":
    os.kill(os.getpid(), signal.SIGSEGV)
if row["do"] == "eat":
    bytearray(2 * 2**30)
if row["do"] == "slow":
    time.sleep(0.2)
sys.exit({"refuse": 3}.get(row["do"], 0))
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "check.py"
    path.write_text(PROGRAM)
    return [sys.executable, "-I", "-S", str(path)]


def test_rows_stay_in_order_and_each_failure_has_its_reason(curate, program):
    does = ["slow", "pass", "die", "refuse", "eat", "pass"]
    rows = [{"prompt": str(i), "do": do} for i, do in enumerate(does)]
    step = {"kind": "verify_command", "command": program, "timeout_s": 60, "memory_mib": 512}
    found = curate(rows, step)
    assert [row["prompt"] for row in found.rows] == ["0", "1", "5"]
    assert found.step["dropped"] == {
        "killed by signal 11": 1,
        "exit status 3": 1,
        # Python's own out of memory.
        "exit status 1": 1,
    }


def test_a_program_that_hangs_is_killed_with_all_that_it_started(curate, program, tmp_path):
    rows = [{"prompt": "0", "do": "hang", "pids": str(tmp_path / "pids")}]
    step = {"kind": "verify_command", "command": program, "timeout_s": 2}
    with pytest.raises(InputError, match=r"verify_command drops all 1 rows \(timed out: 1\)"):
        curate(rows, step)
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        assert is_gone(pid)


@pytest.fixture
def heeds_ctrl_c():
    """As in a terminal: what a shell starts in the background ignores SIGINT."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_nothing_is_left_running_or_waited_for_after_a_signal(
    curate, program, tmp_path, number, error
):
    pids = tmp_path / "pids"

    def send():
        while not pids.exists() or not pids.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()
    rows = [{"prompt": "0", "do": "hang", "pids": str(pids)}]
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(error) as caught:
        curate(rows, {"kind": "verify_command", "command": program, "timeout_s": 3600})
    assert number != signal.SIGTERM or caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert all(is_gone(int(pid)) for pid in pids.read_text().split())


def test_nothing_is_left_running_where_a_later_step_fails(curate, program, tmp_path, monkeypatch):
    monkeypatch.setattr("llmkd.curation.verify_command.NUM_AT_ONCE", 2)
    pids = tmp_path / "pids"
    rows = [{"prompt": "0", "do": do, "pids": str(pids)} for do in ("wait", "hang", "pass")]
    steps = [
        {"kind": "verify_command", "command": program, "timeout_s": 3600},
        {"kind": "verify", "grader": "number"},
    ]
    # The error is held, and with it the frames where it came from.
    with pytest.raises(InputError) as caught:
        curate(rows, *steps)
    assert all(is_gone(int(pid)) for pid in pids.read_text().split())
    assert "have no column `answer`" in str(caught.value)


def is_gone(pid):
    """Whether a process ends within a few seconds, as one does that was sent a SIGKILL."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            # A zombie whose new parent does not wait for it is gone all the same.
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        # More than a pipe holds, which is not read.
        ("", "accepted"),
        ("import signal, os; os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9"),
        ("print('x' * 10**6)", "accepted"),
        # What it leaves behind holds the input.
        ("import subprocess; subprocess.Popen(['sleep', '60'])", "accepted"),
        # What is around the text: {"prompt": ""} and the end of the line.
        ("import sys; sys.exit(len(sys.stdin.read()) - 10**6)", "exit status 15"),
    ],
)
def test_a_program_may_leave_its_input_alone_and_print_much(code, verdict):
    command = [sys.executable, "-I", "-S", "-c", code]
    step = VerifyCommandStep(kind="verify_command", command=command)
    assert verdict_of({"prompt": "x" * 10**6}, step, Programs()) == verdict


def test_a_verdict_is_not_asked_for_again(curate, program, tmp_path, monkeypatch):
    from llmkd.curation import verify_command as module

    rows = [{"prompt": str(i), "do": "refuse" if i % 3 == 0 else "pass"} for i in range(9)]
    step = {"kind": "verify_command", "command": program}
    whole = curate(rows, step, name="whole")
    asked, judge = [], module.verdict_of

    def stopping(row, *rest):
        if row["prompt"] == "6" and "6" not in asked:
            asked.append("6")
            raise KeyboardInterrupt
        asked.append(row["prompt"])
        return judge(row, *rest)

    monkeypatch.setattr(module, "verdict_of", stopping)
    with pytest.raises(KeyboardInterrupt):
        curate(rows, step)
    asked[:] = ["6"]
    found = curate(rows, step)
    # Those after the sixth may have been asked, but their verdicts were not written yet.
    assert sorted(asked[1:]) == ["6", "7", "8"]
    assert (found.folder / "data.jsonl").read_bytes() == (whole.folder / "data.jsonl").read_bytes()
    assert found.step == whole.step


def test_a_change_of_the_rows_asks_again(curate, program, monkeypatch):
    from llmkd.curation import verify_command as module

    rows = [{"prompt": str(i), "do": "pass"} for i in range(4)]
    step = {"kind": "verify_command", "command": program}
    asked, judge = [], module.verdict_of

    def counting(row, *rest):
        asked.append(row["prompt"])
        if row["prompt"] == "stop":
            raise KeyboardInterrupt
        return judge(row, *rest)

    monkeypatch.setattr(module, "verdict_of", counting)
    with pytest.raises(KeyboardInterrupt):
        curate([*rows, {"prompt": "stop"}], step)
    asked.clear()
    curate([rows[0], rows[1] | {"new": 1}, *rows[2:]], step)
    assert sorted(asked) == ["1", "2", "3"]


def test_a_program_that_was_mended_is_asked_again(curate, tmp_path, monkeypatch):
    from llmkd.curation import verify_command as module

    check, judge = tmp_path / "check.py", module.verdict_of
    step = {"kind": "verify_command", "command": [sys.executable, "-I", "-S", str(check)]}
    rows = [{"prompt": "0"}, {"prompt": "1"}]

    def stopping(row, *rest):
        if row["prompt"] == "1":
            raise KeyboardInterrupt
        return judge(row, *rest)

    check.write_text("import sys; sys.exit(3)")
    monkeypatch.setattr(module, "verdict_of", stopping)
    with pytest.raises(KeyboardInterrupt):
        curate(rows, step)
    monkeypatch.undo()
    assert (tmp_path / "stage/journal/0.jsonl").read_bytes().count(b"\n") == 1
    check.write_text("")
    assert curate(rows, step).rows == rows


def test_verdicts_go_where_the_input_is_to_be_mended(curate, program, tmp_path):
    # What the program imports may be what is mended, which no digest tells.
    with pytest.raises(InputError, match="drops all 1 rows"):
        curate([{"do": "refuse", "prompt": "0"}], {"kind": "verify_command", "command": program})
    assert not (tmp_path / "stage/journal").exists()


def test_a_stage_depends_on_the_files_that_its_commands_name(tmp_path, monkeypatch):
    from llmkd.recipe.schema import Recipe
    from llmkd.run_plan import Run

    monkeypatch.chdir(tmp_path)
    code = "pass; " * 1000  # Longer than the name of any file.
    step = {"kind": "verify_command", "command": ["sh", "check.sh", "-c", code]}
    stage = {"kind": "curate", "data": "rows.jsonl", "steps": [step]}
    run = Run(Recipe.model_validate({"name": "tiny", "stages": {"curated": stage}}))
    check = tmp_path / "check.sh"
    check.write_text("true")
    before = run.inputs("curated")["files"]
    assert before.keys() == {"sh", "check.sh"}
    check.write_text("false")
    after = run.inputs("curated")["files"]
    assert [name for name in before if before[name] != after[name]] == ["check.sh"]


@pytest.mark.parametrize(
    ("memory_mib", "script"),
    [
        (64, "exit 0\n"),  # Without a #! line, which a shell would take.
        (2**50, "#!/bin/sh\n"),
        (2**70, "#!/bin/sh\n"),
    ],
)
def test_a_program_that_cannot_be_started_is_no_verdict(curate, tmp_path, memory_mib, script):
    (tmp_path / "check").write_text(script)
    (tmp_path / "check").chmod(0o755)
    step = {"kind": "verify_command", "command": [str(tmp_path / "check")]}
    with pytest.raises(InputError, match=r"steps\.0\.command: .*check cannot be started within"):
        curate([{"prompt": "0"}], step | {"memory_mib": memory_mib})


def test_a_pipe_that_nobody_reads_ends_a_program_as_in_a_shell():
    command = ["sh", "-c", "kill -PIPE $$"]
    step = VerifyCommandStep(kind="verify_command", command=command)
    assert verdict_of({"prompt": "0"}, step, Programs()) == "killed by signal 13"


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere no program learns of its parent's end"
)
def test_a_program_whose_parent_has_gone_does_not_start(tmp_path):
    limited = [sys.executable, "-I", "-S", limited_program.__file__]
    # This process is not its parent, as where that one was killed before the program asked.
    command = [*limited, str(os.getppid()), str(2**30), "touch", str(tmp_path / "ran")]
    assert subprocess.run(command, check=False).returncode == 1
    assert not (tmp_path / "ran").exists()
