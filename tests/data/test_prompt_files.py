"""Prompts from a file: what is a place, what it is filled with, and what is refused."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkd.data.prompt_files import PromptFile, read_prompt_file
from llmkd.data.sources import load_rows
from llmkd.errors import DataError
from llmkd.recipe.data import PromptRows
from llmkd.recipe.shipped import shipped_prompts


def filled(text, **row):
    return PromptFile("p.txt", text).filled(row, 1, "rows.jsonl")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Q: {question} A:", "Q: Why {x}? A:"),
        ("{question}{n}", "Why {x}?7"),
        ("{{question}}", "{question}"),
        ("{{nothing}} {n}", "{nothing} 7"),
        (r"\boxed{{n}} is {n}", r"\boxed{n} is 7"),
        ('{"a": {n}} {} { n } {1} {a b} { {{', '{"a": 7} {} { n } {1} {a b} { {{'),
        ("{größe}", "klein"),
        ("{choices}", '["é", 1]'),
        ("{is_open}", "true"),
        ("{empty}|", "|"),
    ],
)
def test_a_place_is_filled_and_other_braces_stay(text, expected):
    columns = {"größe": "klein", "choices": ["é", 1], "is_open": True, "empty": ""}
    assert filled(text, question="Why {x}?", n=7, **columns) == expected


@given(st.text(alphabet="{}ab1 ", max_size=20), st.text(alphabet="{}ab ", max_size=8))
def test_what_a_place_is_filled_with_is_never_filled_again(text, value):
    row = dict.fromkeys(PromptFile("p.txt", text).columns, "\x00")
    once = PromptFile("p.txt", text).filled(row, 1, "x")
    with_value = PromptFile("p.txt", text).filled(dict.fromkeys(row, value), 1, "x")
    assert with_value == once.replace("\0", value)


@given(st.lists(st.sampled_from(["{a}", "{b}", "{{a}}", "x", "{", "}", " "]), max_size=8))
def test_only_columns_of_places_are_asked_for(parts):
    text = " ".join(parts)
    assert set(PromptFile("p.txt", text).columns) == {p[1] for p in parts if p in ("{a}", "{b}")}


def test_the_last_line_break_is_no_part_of_the_prompt(tmp_path):
    for content, text in [
        (b"{a}\n", "{a}"),
        (b"{a}", "{a}"),
        (b"{a}\n\n", "{a}\n"),
        (b"\xef\xbb\xbf{a}:\r\nA:\r\n", "{a}:\nA:"),
    ]:
        (tmp_path / "p.txt").write_bytes(content)
        assert read_prompt_file(str(tmp_path / "p.txt")).text == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"\xff{a}", "cannot be read"),
        (b"", "has no place for a column"),
        (b"Why? {{a}}", "has no place for a column"),
    ],
)
def test_a_file_that_asks_nothing_is_refused(tmp_path, content, message):
    path = tmp_path / "p.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"data\.prompt_file: .*p\.txt {message}"):
        read_prompt_file(str(path))


@pytest.fixture
def asked(tmp_path):
    """The prompts of rows, written by a file."""

    def read(rows, text, **fields):
        (tmp_path / "p.txt").write_text(text)
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = PromptRows(
            dataset_name=str(tmp_path / "rows.jsonl"),
            prompt_file=str(tmp_path / "p.txt"),
            **fields,
        )
        return load_rows(source, seed=0, need="prompt").to_list()

    return read


def test_rows_need_no_prompt_of_their_own(asked):
    rows = [{"question": "a"}, {"question": "b"}]
    assert asked(rows, "Q: {question}") == [{"prompt": "Q: a"}, {"prompt": "Q: b"}]


def test_the_filled_text_is_asked_whatever_else_the_row_has(asked):
    rows = [{"prompt": "own", "messages": [{"role": "user", "content": "q"}], "text": "t"}]
    assert asked(rows, "{prompt}!") == [{"prompt": "own!"}]


def test_a_column_that_is_not_there_is_named_with_those_that_are(asked):
    said = (
        r"has a place \{question\}, and row 2 of .*rows\.jsonl no such column; its columns are "
        r"quest, id; write one of these, or \{\{question\}\} where \{question\} itself is meant"
    )
    with pytest.raises(DataError, match=said):
        asked([{"question": "a"}, {"quest": "b", "id": 1}], "{question}")


def test_a_null_is_named_by_its_row(asked):
    with pytest.raises(DataError, match="`question` is null in row 2 of"):
        asked([{"question": "a"}, {"question": None}], "{question}")


def test_a_prompt_that_comes_out_empty_is_refused(asked):
    with pytest.raises(ValueError, match="`prompt` is empty or no text in 1 of 2 rows"):
        asked([{"question": "a"}, {"question": ""}], "{question}")


SHIPPED = {
    "prompts/annotate.txt": {"labels", "text"},
    "prompts/explain.txt": {"question"},
    "prompts/rewrite.txt": {"instruction", "answer"},
    "prompts/rewrite_sums.txt": {"reference", "prompt"},
}


def test_the_shipped_prompts_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {name: set(read_prompt_file(name).columns) for name in shipped_prompts()} == SHIPPED
    assert re.search(r"The answer is", read_prompt_file("prompts/explain.txt").text)


def test_a_file_of_ones_own_rules_over_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "explain.txt").write_text("Mine: {question}\n")
    assert read_prompt_file("prompts/explain.txt").text == "Mine: {question}"
