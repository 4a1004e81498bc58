"""What a recipe may not say of rewards, with the way out; and which of them foreign code is run for."""

import pytest
from pydantic import TypeAdapter, ValidationError

from llmkd.errors import InputError
from llmkd.recipe.curation import CurateStage
from llmkd.recipe.foreign_code import foreign_code
from llmkd.recipe.reward_checks import correct_reward, reward_problems
from llmkd.recipe.rewards import Reward

NUMBER, FORMAT = {"kind": "number"}, {"kind": "format", "pattern": "a"}


def rewards(*written):
    return TypeAdapter(list[Reward]).validate_python(list(written))


def problems(*written):
    found = reward_problems(rewards(*written), ("s", "reward_funcs"))
    return [(".".join(map(str, one.key)), one.message) for one in found]


def test_what_is_right_has_no_problems(tmp_path):
    (tmp_path / "mine.py").write_text(
        "try:\n    from fast import f\nexcept ImportError:\n    f = len\n"
    )
    function = {"kind": "function", "function": f"{tmp_path}/mine.py:f"}
    length = {"kind": "length", "max_length": 8, "soft_length": 8}
    assert problems(NUMBER, FORMAT, function, length, {"kind": "math_verify"}) == []


def test_two_rewards_of_one_name_are_told_apart_by_another():
    assert problems(NUMBER, FORMAT, NUMBER) == [
        (
            "s.reward_funcs.2",
            "is called `number`, as reward_funcs.0 is; give one of them another `name`",
        )
    ]
    assert problems(NUMBER, NUMBER | {"name": "sum"}) == []
    assert problems(NUMBER | {"name": "format"}, FORMAT)[0][0] == "s.reward_funcs.1"


def test_a_length_falls_within_itself():
    assert problems({"kind": "length", "max_length": 8, "soft_length": 9}) == [
        ("s.reward_funcs.0.soft_length", "9 is more than max_length: 8; write 8 or less")
    ]


@pytest.mark.parametrize("pattern", ["(", "a{99999999999}", "(?P<a>x)(?P<a>y)"])
def test_a_pattern_is_one_of_pythons(pattern):
    [(key, message)] = problems(FORMAT | {"pattern": pattern})
    assert key == "s.reward_funcs.0.pattern"
    assert message.startswith("is no regular expression of Python's (")


def test_math_verify_is_installed(monkeypatch):
    monkeypatch.setattr("llmkd.recipe.reward_checks.find_spec", lambda name: None)
    assert "pip install 'llmkd[rl]'" in problems({"kind": "math_verify"})[0][1]


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("mine.py:bonuss", "has no `bonuss`; did you mean `bonus`?"),
        ("min.py:bonus", "did you mean"),
        ("broken.py:f", "broken.py cannot be read as Python"),
    ],
)
def test_a_function_is_looked_for_in_its_file_which_is_not_run(function, told, tmp_path):
    (tmp_path / "mine.py").write_text("def bonus(): ...\nopen('was run', 'w')\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    [(key, message)] = problems({"kind": "function", "function": f"{tmp_path}/{function}"})
    assert key == "s.reward_funcs.0.function"
    assert told in message
    assert not (tmp_path / "was run").exists()


def test_a_module_is_not_looked_for_as_that_would_run_it():
    assert problems({"kind": "function", "function": "no_such.module:f"}) == []


@pytest.mark.parametrize("function", ["mine.py", "mine.py:", ":f", "mine:f()", "mine:a.b"])
def test_a_function_has_a_place_and_a_name(function):
    with pytest.raises(ValidationError):
        rewards({"kind": "function", "function": function})


def test_the_first_that_looks_at_answers_says_what_is_right():
    choice = {"kind": "multiple_choice"}
    length = {"kind": "length", "max_length": 8, "soft_length": 8}
    assert correct_reward(rewards(FORMAT, length, choice, NUMBER)) == 2
    assert correct_reward(rewards(NUMBER, choice | {"name": "letter"}), "letter") == 1
    assert correct_reward(rewards(NUMBER, FORMAT), "format") == 1


def test_where_none_does_it_is_told_what_to_write():
    with pytest.raises(InputError, match=r"no reward says .*; add one of kind .*: format$"):
        correct_reward(rewards(FORMAT))
    with pytest.raises(InputError, match="no reward is called `numbers`; did you mean `number`"):
        correct_reward(rewards(NUMBER), "numbers")


def test_foreign_code_is_found_wherever_it_stands_with_its_files(tmp_path):
    function = {"kind": "function", "function": "mine.py:f"}
    module = {"kind": "function", "function": "a.b:f"}
    found = foreign_code(rewards(NUMBER, function, module), ("s", "reward_funcs"))
    assert [(one.key, one.shown, one.files) for one in found] == [
        (("s", "reward_funcs", 1, "function"), "mine.py:f", {"mine.py": "mine.py"}),
        (("s", "reward_funcs", 2, "function"), "a.b:f", {}),
    ]
    (tmp_path / "check.py").touch()
    step = {"kind": "verify_command", "command": ["no-such-program", f"{tmp_path}/check.py", "a b"]}
    steps = [{"kind": "repetition"}, step]
    stage = CurateStage.model_validate({"kind": "curate", "data": "rows.jsonl", "steps": steps})
    [command] = foreign_code(stage)
    assert command.key == ("steps", 1, "command")
    assert command.shown == f"no-such-program {tmp_path}/check.py 'a b'"
    assert list(command.files) == [f"{tmp_path}/check.py"]
