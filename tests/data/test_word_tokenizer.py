import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rows.jsonl"], "write a data set, and a folder"),
        (["./nowhere.jsonl", "folder"], "there is no nowhere.jsonl"),
    ],
)
def test_bad_input_is_told_without_a_traceback(arguments, message, tmp_path):
    command = [sys.executable, "-m", "llmkd.data.word_tokenizer", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
