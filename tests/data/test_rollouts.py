"""The problems of a reinforcement learning, as TRL reads them."""

import json

import pytest

from llmkd.data.rollouts import rollout_prompts
from llmkd.errors import DataError
from llmkd.recipe.data import PromptRows


@pytest.fixture
def read(tmp_path, tokenizer, tiny_llama):
    def rows(rows, *keep):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = PromptRows(dataset_name=str(path), keep_columns=[*keep])
        config = tiny_llama(tokenizer).config
        return rollout_prompts(source, tokenizer, config, seed=0, progress=lambda done, total: None)

    return rows


def test_rows_have_the_prompt_and_what_is_kept(read):
    rows, longest = read(
        [{"prompt": "1+1=", "answer": 2}, {"prompt": "12+1=", "answer": 13}], "answer"
    )
    assert rows[1] == {"prompt": "12+1=", "answer": 13}
    # With the begin-of-text token.
    assert longest == 6


def test_what_rows_say_in_a_column_may_be_of_several_types(read):
    rows, _ = read([{"prompt": "1+1=", "answer": 2}, {"prompt": "1+2=", "answer": "3"}], "answer")
    assert [row["answer"] for row in rows] == [2, "3"]


@pytest.mark.parametrize("name", ["completion", "prompts", "images", "trainer_state"])
def test_a_column_that_trl_calls_something_else_is_refused(read, name):
    with pytest.raises(DataError, match=f"{name} is what TRL calls something of its own"):
        read([{"prompt": "1+1=", name: "2"}], name)
