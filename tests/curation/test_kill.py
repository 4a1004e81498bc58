"""kill -9 in the middle of a curation, and the same command again."""

import os
import signal
import subprocess
import sys
import time

import pytest

RECIPE = """\
name: tiny
stages:
  curated:
    kind: curate
    data: rows.jsonl
    steps:
      - {kind: duplicates, of: prompt}
      - {kind: verify_command, command: [COMMAND]}
      - {kind: verify, grader: math_verify, keep: all}
      - {kind: select, pass_rate: [0.0, 1.0]}
"""
# Odd rows pass; how often it is asked is in a file.
PROGRAM = "import json, sys; n = json.load(sys.stdin)['number']; open('asked', 'a').write(f'{n} '); sys.exit(n % 2 == 0)"


@pytest.mark.slow
def test_the_same_command_again_gives_the_bytes_of_an_undisturbed_run(tmp_path, write_rows):
    write_rows(
        {"prompt": f"p{i}", "completion": f"${i}$", "answer": str(i - i % 3), "number": i}
        for i in range(200)
    )
    command = f'{sys.executable}, -I, -S, -c, "{PROGRAM}"'
    (tmp_path / "tiny.yaml").write_text(RECIPE.replace("COMMAND", command))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def start(output):
        train = [sys.executable, "-m", "llmkd", "train", "tiny.yaml", "--allow-code"]
        return subprocess.Popen([*train, f"output_dir={output}"], cwd=tmp_path, env=environment)

    assert start("whole").wait() == 0
    (tmp_path / "asked").unlink()
    journal = tmp_path / "killed/stages/curated/journal/1.jsonl"
    process = start("killed")
    deadline = time.monotonic() + 120
    while not journal.exists() or journal.read_bytes().count(b"\n") < 40:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed/stages/curated/data.jsonl").exists()
    known = journal.read_bytes().count(b"\n")
    assert start("killed").wait() == 0
    ours, expected = (
        (tmp_path / name / "stages/curated/data.jsonl").read_bytes() for name in ("killed", "whole")
    )
    assert ours == expected
    assert not list((tmp_path / "killed/stages/curated").glob(".*"))
    # Twice were asked at most those whose verdict was not written yet.
    assert len((tmp_path / "asked").read_text().split()) <= 200 + 2 * (os.cpu_count() or 1) + 1
    assert 40 <= known < 200
