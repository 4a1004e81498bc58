import json

import pytest

from llmkd.evaluation.kept import Kept

ANSWERS = {2: {"text": "zwei ½"}, 0: {"text": "null"}, 1: {"text": "eins", "score": 0.1}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model-0" / "task-0" / "answers.jsonl"


def test_answers_come_back_in_the_order_of_the_examples(path):
    Kept(path, {"seed": 1}).add(ANSWERS)
    found = Kept(path, {"seed": 1})
    assert found.in_order() == [ANSWERS[i] for i in range(3)]
    assert found.has_all([0, 2])
    assert not found.has_all([2, 3])


def test_wherever_a_kill_cuts_the_file_only_whole_answers_count_and_more_can_be_added(path):
    Kept(path, {"seed": 1}).add(ANSWERS)
    content = path.read_bytes()
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        found = Kept(path, {"seed": 1})
        num_whole = max(0, content[:length].count(b"\n") - 1)
        assert list(found.answers) == [2, 0, 1][:num_whole]
        found.add(ANSWERS)
        assert Kept(path, {"seed": 1}).answers == ANSWERS


@pytest.mark.parametrize(
    "damage", [b"\0" * 8, b"\xff\xfe", b"3", b'{"text": "whose"}', b'{"example"']
)
def test_what_stands_before_a_damaged_line_counts(path, damage):
    Kept(path, {"seed": 1}).add(ANSWERS)
    lines = path.read_bytes().splitlines()
    for number in range(len(lines)):
        path.write_bytes(b"\n".join([*lines[:number], damage, *lines[number + 1 :]]) + b"\n")
        found = Kept(path, {"seed": 1})
        assert list(found.answers) == [2, 0, 1][: max(0, number - 1)]
        found.add(ANSWERS)
        assert Kept(path, {"seed": 1}).answers == ANSWERS


def test_answers_under_other_settings_are_not_taken(path):
    Kept(path, {"seed": 1}).add(ANSWERS)
    other = Kept(path, {"seed": 2})
    assert other.in_order() == []
    other.add({0: {"text": "anders"}})
    assert Kept(path, {"seed": 2}).in_order() == [{"text": "anders"}]


def test_an_answer_is_on_the_disk_when_it_was_added(path):
    kept = Kept(path, {})
    kept.add({0: {"text": "a"}})
    assert json.loads(path.read_text().splitlines()[1]) == {"example": 0, "text": "a"}


def test_without_a_file_answers_are_held_all_the_same():
    kept = Kept(None, {})
    kept.add(ANSWERS)
    assert kept.in_order()[2] == ANSWERS[2]
