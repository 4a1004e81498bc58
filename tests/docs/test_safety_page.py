"""The tests that docs/safety.md names are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "safety.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", sorted(set(re.findall(r"`((?:\w+/)+test_\w+\.py)`", PAGE))))
def test_each_file_is_there(file):
    assert (ROOT / "tests" / file).is_file()


def test_each_row_of_a_table_names_a_test_of_its_file():
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    named = [found for row in rows for found in re.findall(r"`([\w/]+\.py)` ([a-z' ]+)", row)]
    assert len(named) > 12
    for file, words in named:
        name = words.strip().replace("'", "").replace(" ", "_")
        assert re.search(rf"def test_\w*{name}", (ROOT / "tests" / file).read_text()), (file, words)
