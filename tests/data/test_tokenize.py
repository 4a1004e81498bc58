import datasets
import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from llmkd.data.addition import make_rows
from llmkd.data.tokenize import encode_prompts, tokenize
from llmkd.errors import InputError
from llmkd.recipe.data import AdditionTask

BOS, EOS = 1, 2


def rows_of(**columns):
    return datasets.Dataset.from_dict(columns)


def tokenized(rows, tokenizer, max_length=100, append_eos=True):
    return tokenize(rows, tokenizer, max_length=max_length, append_eos=append_eos)


def ids(text):
    """The addition tokenizer's ids, worked by hand: 4 special tokens, then the characters."""
    return [4 + "0123456789+=;#".index(character) for character in text]


def with_special_tokens(tokenizer, template):
    special = [("<bos>", BOS), ("<eos>", EOS)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=special
    )
    return tokenizer


def test_prompt_and_completion_are_joined_between_bos_and_eos(tokenizer):
    result = tokenized(rows_of(prompt=["1+2="], completion=["#3"]), tokenizer)
    assert result.rows.to_list() == [
        {"input_ids": [BOS, *ids("1+2=#3"), EOS], "num_prompt_tokens": 5}
    ]
    assert (result.num_rows, result.num_tokens) == (1, 8)
    assert (result.num_truncated, result.num_dropped) == (0, 0)


def test_eos_can_be_left_out(tokenizer):
    rows = rows_of(prompt=["1+2="], completion=["#3"])
    (row,) = tokenized(rows, tokenizer, append_eos=False).rows
    assert row["input_ids"] == [BOS, *ids("1+2=#3")]


def test_a_text_has_no_prompt(tokenizer):
    (row,) = tokenized(rows_of(text=["12"]), tokenizer).rows
    assert row == {"input_ids": [BOS, *ids("12"), EOS], "num_prompt_tokens": 0}


def test_a_text_begins_with_bos_though_the_tokenizer_adds_none_and_a_prompt_does_not(tokenizer):
    with_special_tokens(tokenizer, "$A")
    (row,) = tokenized(rows_of(text=["12"]), tokenizer).rows
    assert row["input_ids"] == [BOS, *ids("12"), EOS]
    (row,) = tokenized(rows_of(prompt=["1"], completion=["2"]), tokenizer).rows
    assert row == {"input_ids": [*ids("12"), EOS], "num_prompt_tokens": 1}


def test_a_tokenizer_that_adds_eos_itself_ends_no_prompt_with_it(tokenizer):
    with_special_tokens(tokenizer, "<bos> $A <eos>")
    (row,) = tokenized(rows_of(prompt=["1"], completion=["2"]), tokenizer).rows
    assert row == {"input_ids": [BOS, *ids("12"), EOS], "num_prompt_tokens": 2}
    (row,) = tokenized(rows_of(text=["12"]), tokenizer, append_eos=False).rows
    assert row["input_ids"] == [BOS, *ids("12")]
    # An end-of-text token that the prompt itself contains stays.
    assert encode_prompts(["1<eos>"], tokenizer) == [[BOS, *ids("1"), EOS]]


def test_a_tokenizer_without_bos_is_served(tokenizer):
    with_special_tokens(tokenizer, "$A").bos_token = None
    (row,) = tokenized(rows_of(text=["12"]), tokenizer).rows
    assert row["input_ids"] == [*ids("12"), EOS]


def test_eos_that_is_also_bos_stays_at_the_beginning(tokenizer):
    with_special_tokens(tokenizer, "<eos> $A").bos_token = "<eos>"
    assert encode_prompts(["1"], tokenizer) == [[EOS, *ids("1")]]


@pytest.mark.parametrize(
    ("max_length", "expected", "num_truncated"),
    [
        (8, [BOS, *ids("1+2=#3"), EOS], 0),
        (7, [BOS, *ids("1+2=#3")], 1),
        (6, [BOS, *ids("1+2=#")], 1),
    ],
)
def test_a_long_sequence_is_cut_at_the_end_and_loses_its_eos(
    tokenizer, max_length, expected, num_truncated
):
    rows = rows_of(prompt=["1+2="], completion=["#3"])
    result = tokenized(rows, tokenizer, max_length)
    assert result.rows[0]["input_ids"] == expected
    assert (result.num_truncated, result.num_tokens) == (num_truncated, len(expected))


def test_rows_without_a_token_to_train_on_are_dropped_and_counted(tokenizer):
    rows = rows_of(prompt=["1+2=", "1111", "1"], completion=["#3", "2", "2"])
    result = tokenized(rows, tokenizer, max_length=5)
    assert result.rows.to_list() == [{"input_ids": [BOS, *ids("12"), EOS], "num_prompt_tokens": 2}]
    assert (result.num_rows, result.num_truncated, result.num_dropped) == (1, 0, 2)


def test_nothing_left_is_refused(tokenizer):
    rows = rows_of(prompt=["1+2="], completion=["#3"])
    with pytest.raises(InputError, match="none of 1 rows has a token to train on within 5 tokens"):
        tokenized(rows, tokenizer, max_length=5)


def test_no_end_of_text_token_is_refused_only_where_it_is_needed(tokenizer):
    tokenizer.eos_token = None
    rows = rows_of(text=["12"])
    with pytest.raises(InputError, match="write append_eos: false"):
        tokenized(rows, tokenizer)
    assert tokenized(rows, tokenizer, append_eos=False).num_tokens == 3


def test_many_rows_keep_their_order(tokenizer):
    rows = make_rows(AdditionTask(kind="task", num_examples=2500), 0)
    result = tokenized(datasets.Dataset.from_list(rows), tokenizer)
    texts = tokenizer.batch_decode(result.rows["input_ids"][:], skip_special_tokens=True)
    assert texts == [row["prompt"] + row["completion"] for row in rows]
    assert (result.num_rows, result.num_tokens) == (2500, 2500 * 42)


@pytest.mark.real_data
def test_a_real_tokenizer(real_data):
    tokenizer = AutoTokenizer.from_pretrained(real_data / "models" / "stories260K" / "hf")
    text = "Once upon a time, there was a tiny cat."
    (row,) = tokenized(rows_of(text=[text]), tokenizer).rows
    assert row["input_ids"][0] == tokenizer.bos_token_id
    assert row["input_ids"][-1] == tokenizer.eos_token_id
    assert tokenizer.decode(row["input_ids"][1:-1]) == text
    # This tokenizer begins every text with a space, so that parts split at one make the whole.
    (split,) = tokenized(
        rows_of(prompt=["Once upon a time"], completion=["there was"]), tokenizer
    ).rows
    (whole,) = tokenized(rows_of(text=["Once upon a time there was"]), tokenizer).rows
    assert split["input_ids"] == whole["input_ids"]
