import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from llmkd.data.addition import make_rows
from llmkd.data.tokenize import Tokenize, encode_prompts
from llmkd.errors import InputError
from llmkd.recipe.data import AdditionTask, Sequences

BOS, EOS = 1, 2


def rows_of(**columns):
    values = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in values]


def tokenizing(tokenizer, max_length=100, append_eos=True):
    return Tokenize(tokenizer, Sequences(max_length=max_length, append_eos=append_eos))


def only(rows, tokenizer, **settings):
    """The one example of the rows: its ids and the spans of them that are trained on."""
    (example,) = tokenizing(tokenizer, **settings)(rows)
    return example.input_ids, example.trained_spans


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
    (example,) = tokenizing(tokenizer)(rows_of(prompt=["1+2="], completion=["#3"]))
    assert example.input_ids == [BOS, *ids("1+2=#3"), EOS]
    assert example.trained_spans == [5, 8]
    assert (example.length, example.num_trained, example.num_cut) == (8, 3, 0)


def test_eos_can_be_left_out(tokenizer):
    rows = rows_of(prompt=["1+2="], completion=["#3"])
    assert only(rows, tokenizer, append_eos=False) == ([BOS, *ids("1+2=#3")], [5, 7])


def test_of_a_text_all_but_the_first_token_is_trained_on(tokenizer):
    assert only(rows_of(text=["12"]), tokenizer) == ([BOS, *ids("12"), EOS], [1, 4])


def test_a_text_begins_with_bos_though_the_tokenizer_adds_none_and_a_prompt_does_not(tokenizer):
    with_special_tokens(tokenizer, "$A")
    assert only(rows_of(text=["12"]), tokenizer)[0] == [BOS, *ids("12"), EOS]
    rows = rows_of(prompt=["1"], completion=["2"])
    assert only(rows, tokenizer) == ([*ids("12"), EOS], [1, 3])


def test_a_tokenizer_that_adds_eos_itself_ends_no_prompt_with_it(tokenizer):
    with_special_tokens(tokenizer, "<bos> $A <eos>")
    rows = rows_of(prompt=["1"], completion=["2"])
    assert only(rows, tokenizer) == ([BOS, *ids("12"), EOS], [2, 4])
    assert only(rows_of(text=["12"]), tokenizer, append_eos=False)[0] == [BOS, *ids("12")]
    # An end-of-text token that the prompt itself contains stays.
    assert encode_prompts(["1<eos>"], tokenizer) == [[BOS, *ids("1"), EOS]]


def test_a_tokenizer_without_bos_is_served(tokenizer):
    with_special_tokens(tokenizer, "$A").bos_token = None
    assert only(rows_of(text=["12"]), tokenizer)[0] == [*ids("12"), EOS]


def test_eos_that_is_also_bos_stays_at_the_beginning(tokenizer):
    with_special_tokens(tokenizer, "<eos> $A").bos_token = "<eos>"
    assert encode_prompts(["1"], tokenizer) == [[EOS, *ids("1")]]


@pytest.mark.parametrize(
    ("max_length", "expected", "num_cut"),
    [
        (8, [BOS, *ids("1+2=#3"), EOS], 0),
        (7, [BOS, *ids("1+2=#3")], 1),
        (6, [BOS, *ids("1+2=#")], 2),
    ],
)
def test_a_long_sequence_is_cut_at_the_end_and_loses_its_eos(
    tokenizer, max_length, expected, num_cut
):
    rows = rows_of(prompt=["1+2="], completion=["#3"])
    (example,) = tokenizing(tokenizer, max_length)(rows)
    assert example.input_ids == expected
    assert example.trained_spans == [5, max_length]
    assert (example.num_cut, example.num_trained) == (num_cut, max_length - 5)


def test_rows_without_a_token_to_train_on_are_dropped_and_counted(tokenizer):
    tokenize = tokenizing(tokenizer, max_length=5)
    rows = rows_of(prompt=["1+2=", "1111", "1"], completion=["#3", "2", "2"])
    assert [example.input_ids for example in tokenize(rows)] == [[BOS, *ids("12"), EOS]]
    assert (tokenize.num_rows, tokenize.num_dropped) == (3, 2)
    tokenize.refuse_nothing()


def test_nothing_left_is_refused(tokenizer):
    tokenize = tokenizing(tokenizer, max_length=5)
    assert list(tokenize(rows_of(prompt=["1+2="], completion=["#3"]))) == []
    with pytest.raises(InputError, match="none of 1 rows has a token to train on within 5 tokens"):
        tokenize.refuse_nothing()


def test_no_end_of_text_token_is_refused_only_where_it_is_needed(tokenizer):
    tokenizer.eos_token = None
    rows = rows_of(text=["12"])
    with pytest.raises(InputError, match="write append_eos: false"):
        list(tokenizing(tokenizer)(rows))
    assert len(only(rows, tokenizer, append_eos=False)[0]) == 3


def test_many_rows_keep_their_order(tokenizer):
    rows = make_rows(AdditionTask(kind="task", num_examples=2500), 0)
    examples = list(tokenizing(tokenizer)(rows))
    encoded = [example.input_ids for example in examples]
    texts = tokenizer.batch_decode(encoded, skip_special_tokens=True)
    assert texts == [row["prompt"] + row["completion"] for row in rows]
    assert sum(example.length for example in examples) == 2500 * 42


@pytest.mark.real_data
def test_a_real_tokenizer(real_data):
    tokenizer = AutoTokenizer.from_pretrained(real_data / "models" / "stories260K" / "hf")
    text = "Once upon a time, there was a tiny cat."
    encoded, _ = only(rows_of(text=[text]), tokenizer)
    assert encoded[0] == tokenizer.bos_token_id
    assert encoded[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(encoded[1:-1]) == text
    # This tokenizer begins every text with a space, so that parts split at one make the whole.
    split, _ = only(rows_of(prompt=["Once upon a time"], completion=["there was"]), tokenizer)
    whole, _ = only(rows_of(text=["Once upon a time there was"]), tokenizer)
    assert split == whole
