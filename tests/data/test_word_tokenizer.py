import subprocess
import sys

import pytest
from transformers import AutoTokenizer

from llmkd.data.word_tokenizer import main
from llmkd.errors import InputError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rows.jsonl"], "write a data set, and a folder"),
        (["./nowhere.jsonl", "folder"], "nowhere.jsonl does not exist"),
    ],
)
def test_bad_input_is_told_without_a_traceback(arguments, message, tmp_path):
    command = [sys.executable, "-m", "llmkd.data.word_tokenizer", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_rows_may_call_their_columns_otherwise_and_need_no_label(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"first": "wet wet cold", "second": "Cold rain"}\n')
    main([str(rows), str(tmp_path / "words"), "text=first", "text_pair=second"])
    words = set(AutoTokenizer.from_pretrained(tmp_path / "words").get_vocab())
    assert {word for word in words if not word.startswith("[")} == {"wet", "cold"}
    with pytest.raises(InputError, match="has no column for text: third"):
        main([str(rows), str(tmp_path / "words"), "text=third"])
    with pytest.raises(InputError, match=r"columns.texts: .* did you mean `text`"):
        main([str(rows), str(tmp_path / "words"), "texts=first"])
