import pytest

from llmkd.errors import InputError


@pytest.fixture
def prompt_file(tmp_path):
    path = tmp_path / "ask.txt"
    path.write_text("Say {completion} of {prompt}\n")
    return str(path)


def test_each_prompt_is_filled_and_the_rest_of_the_row_stays(curate, prompt_file):
    rows = [{"prompt": "a", "completion": "b", "level": 3}]
    found = curate(rows, {"kind": "prompt", "prompt_file": prompt_file})
    assert found.rows == [{"prompt": "Say b of a", "completion": "b", "level": 3}]


def test_what_the_assistant_says_last_is_the_completion_of_the_new_prompt(curate, tmp_path):
    path = tmp_path / "ask.txt"
    path.write_text("Topic: {topic}")
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "said"}]
    found = curate(
        [{"messages": turns, "topic": "tea"}], {"kind": "prompt", "prompt_file": str(path)}
    )
    assert found.rows == [{"topic": "tea", "completion": "said", "prompt": "Topic: tea"}]


def test_a_place_without_a_column_names_the_step_and_the_columns(curate, prompt_file):
    step = {"kind": "prompt", "prompt_file": prompt_file}
    with pytest.raises(InputError, match=r"steps\.0\.prompt_file: .*\{completion\}.*columns are"):
        curate([{"prompt": "a", "number": 1}], step)


def test_a_missing_file_is_told(curate, tmp_path):
    step = {"kind": "prompt", "prompt_file": str(tmp_path / "none.txt")}
    with pytest.raises(InputError, match=r"steps\.0\.prompt_file: .*none\.txt cannot be read"):
        curate([{"prompt": "a", "completion": "b"}], step)
