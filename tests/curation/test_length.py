import pytest


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        # "ab cd" has 2 words and 5 characters; both bounds are inclusive.
        ({"min_length": 2, "max_length": 2}, ["ab cd"]),
        ({"unit": "characters", "max_length": 5}, ["ab cd", "abc"]),
        ({"unit": "characters", "min_length": 5}, ["ab cd", "a  b \n c"]),
        ({}, ["ab cd", "abc", "a  b \n c"]),
    ],
)
def test_bounds_are_inclusive(curate, step, kept):
    rows = [{"prompt": "p q r", "completion": text} for text in ("", "ab cd", "abc", "a  b \n c")]
    found = curate(rows, {"kind": "length"} | step)
    assert [row["completion"] for row in found.rows] == kept


def test_too_short_and_too_long_are_counted_apart(curate):
    rows = [{"text": "a " * length} for length in (1, 2, 3, 4, 5)]
    found = curate(rows, {"kind": "length", "min_length": 2, "max_length": 3})
    assert found.step["dropped"] == {"too long": 2, "too short": 1}


def test_prompts_may_be_measured(curate):
    turns = [{"role": "user", "content": "one two"}, {"role": "assistant", "content": "a b c"}]
    rows = [{"messages": turns}, {"prompt": "one two three", "completion": ""}]
    found = curate(rows, {"kind": "length", "of": "prompt", "max_length": 2})
    assert found.rows == rows[:1]
