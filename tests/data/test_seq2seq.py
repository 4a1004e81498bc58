"""Rows of prompt and completion for an encoder and a decoder, and their batches."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from llmkd.data.kinds import collator_for, tokenizing_for
from llmkd.data.prepare import prepare
from llmkd.data.seq2seq import Seq2SeqCollator, Seq2SeqTokenize
from llmkd.errors import InputError
from llmkd.recipe.data import DataSource, Sequences

PAD, BOS, EOS = 0, 1, 2
MBART = "$A <eos> #"
T5, BART, CAUSAL = "$A <eos>", "<bos> $A <eos>", "<bos> $A"
ROWS = [{"prompt": "1+2=", "completion": "3"}, {"prompt": "12+34=", "completion": "46"}]


def digits(text):
    """Ids of the addition task's characters, which come after four special tokens."""
    return ["0123456789+=;#".index(letter) + 4 for letter in text]


def examples(tokenizer, rows=ROWS, start=PAD, **settings):
    return list(
        Seq2SeqTokenize(tokenizer, Sequences(**settings), decoder_start_token_id=start)(rows)
    )


def sides(example):
    start, end = example.trained_spans
    assert end == example.length == len(example.input_ids)
    assert example.num_trained == end - start
    return example.input_ids[:start], example.input_ids[start:]


@pytest.mark.parametrize(
    ("template", "start", "source", "target"),
    [
        (T5, PAD, [*digits("1+2="), EOS], [*digits("3"), EOS]),
        (BART, EOS, [BOS, *digits("1+2="), EOS], [BOS, *digits("3"), EOS]),
        (CAUSAL, PAD, [BOS, *digits("1+2=")], [BOS, *digits("3"), EOS]),
        # A token after the end, as mBART's of the language, stays the last.
        (MBART, PAD, [*digits("1+2="), EOS, *digits("#")], [*digits("3"), EOS, *digits("#")]),
        # A decoder that begins with the begin-of-text token needs no second one.
        (CAUSAL, BOS, [BOS, *digits("1+2=")], [*digits("3"), EOS]),
    ],
)
def test_each_side_has_the_special_tokens_of_its_tokenizer(framed, template, start, source, target):
    first, _ = examples(framed(template), start=start)
    assert sides(first) == (source, target)


@pytest.mark.parametrize("template", [T5, CAUSAL])
def test_the_end_is_the_recipes_to_choose(framed, template):
    first, _ = examples(framed(template), start=BOS, append_eos=False)
    assert sides(first)[1] == digits("3")
    assert sides(first)[0][-1] == (EOS if template == T5 else digits("=")[0]), "the prompt's own"


def test_without_the_end_a_token_after_it_stays(framed):
    first, _ = examples(framed(MBART), append_eos=False)
    assert sides(first)[1] == digits("3#")


def test_max_length_bounds_each_side_and_what_is_cut_is_counted(framed):
    rows = [{"prompt": "12345", "completion": "1"}, {"prompt": "1", "completion": "12345"}]
    tokenizer = framed(T5)
    long_prompt, long_answer = examples(tokenizer, rows, max_length=4)
    # As transformers cuts a text, the end of what the encoder reads stays.
    assert sides(long_prompt) == ([*digits("123"), EOS], [*digits("1"), EOS])
    assert sides(long_prompt)[0] == tokenizer("12345", truncation=True, max_length=4)["input_ids"]
    assert sides(long_answer) == ([*digits("1"), EOS], digits("1234"))
    # Of six tokens on one side four are left; the other side has its two.
    assert [example.num_cut for example in (long_prompt, long_answer)] == [2, 2]
    assert [example.num_cut for example in examples(tokenizer, rows, max_length=6)] == [0, 0]


def test_a_model_reads_the_longer_side_at_once(framed):
    made = Seq2SeqTokenize(framed(T5), Sequences(), decoder_start_token_id=PAD)
    length, num_trained = torch.tensor([10, 10]).numpy(), torch.tensor([3, 6]).numpy()
    assert made.num_read({"length": length, "num_trained": num_trained}.get).tolist() == [7, 6]


@pytest.mark.parametrize("row", [{"text": "1+2=3"}, {"messages": [{"role": "user", "content": "1"}]}])  # fmt: skip
def test_rows_without_a_prompt_and_a_completion_are_refused(tokenizer, row):
    with pytest.raises(InputError, match=f"rows of `{next(iter(row))}`.*`prompt` and `completion`"):
        examples(tokenizer, [row])


def test_packing_is_refused(tokenizer):
    with pytest.raises(InputError, match=r"data.packing: .*write packing: false"):
        examples(tokenizer, packing=True)


def test_a_batch_worked_by_hand():
    rows = [
        {"input_ids": [5, 6, 7, EOS, 8, EOS], "trained_spans": [4, 6]},
        {"input_ids": [5, EOS, 8, 9, 9, EOS], "trained_spans": [2, 6]},
    ]
    batch = Seq2SeqCollator(PAD, decoder_start_token_id=3)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7, EOS], [5, EOS, PAD, PAD]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    # Position t has read what comes before the token that it predicts.
    assert batch["decoder_input_ids"].tolist() == [[3, 8, PAD, PAD], [3, 8, 9, 9]]
    assert batch["target_ids"].tolist() == [[8, EOS, -100, -100], [8, 9, 9, EOS]]
    assert all(tensor.dtype == torch.long for tensor in batch.values())


@given(
    st.lists(
        st.tuples(*[st.lists(st.integers(4, 9), min_size=1, max_size=5)] * 2),
        min_size=1,
        max_size=4,
    )
)
def test_every_token_is_predicted_once_from_all_before_it(pairs):
    rows = [{"input_ids": a + b, "trained_spans": [len(a), len(a + b)]} for a, b in pairs]
    batch = Seq2SeqCollator(PAD, decoder_start_token_id=3)(rows)
    for i, (source, target) in enumerate(pairs):
        is_kept = batch["target_ids"][i] != -100
        assert batch["target_ids"][i][is_kept].tolist() == target
        assert batch["decoder_input_ids"][i][is_kept].tolist() == [3, *target][:-1]
        assert batch["input_ids"][i][batch["attention_mask"][i].bool()].tolist() == source


@pytest.fixture
def prepared(tmp_path, tokenizer):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def make(model, **data):
        source = TypeAdapter(DataSource).validate_python(
            {"dataset_name": str(tmp_path / "rows.jsonl"), **data}
        )
        tokenizing = tokenizing_for(model.config, "student")
        progress = lambda *_, **__: None  # noqa: E731
        return prepare(source, tokenizer, seed=0, progress=progress, tokenizing=tokenizing)

    return make


def test_one_file_is_tokenized_anew_for_another_kind_or_another_begin_of_text(
    prepared, tokenizer, tiny_llama, tiny_seq2seq
):
    causal = prepared(tiny_llama(tokenizer))
    from_pad = prepared(tiny_seq2seq(tokenizer))
    from_bos = prepared(tiny_seq2seq(tokenizer, decoder_start_token_id=BOS))
    again = prepared(tiny_seq2seq(tokenizer))
    assert causal.dataset[0]["input_ids"] == [BOS, *digits("1+2=3"), EOS]
    assert from_pad.dataset[0]["input_ids"] == [BOS, *digits("1+2="), BOS, *digits("3"), EOS]
    assert from_bos.dataset[0]["input_ids"] == causal.dataset[0]["input_ids"]
    assert from_bos.dataset[0]["trained_spans"] == [5, 7]
    assert again.dataset[:] == from_pad.dataset[:]


def test_lengths_are_of_both_sides_and_the_longest_of_one(prepared, tokenizer, tiny_seq2seq):
    data = prepared(tiny_seq2seq(tokenizer))
    assert data.lengths == [5 + 3, 7 + 4]
    assert data.longest == 7
    assert data.counts.num_trained_tokens == 3 + 4


def test_a_stream_gives_the_same_examples(prepared, tokenizer, tiny_seq2seq):
    model = tiny_seq2seq(tokenizer)
    stream, stored = prepared(model, streaming=True, max_length=9), prepared(model)
    rows = iter(stream.dataset)
    found = sorted(tuple(next(rows)["input_ids"].tolist()) for _ in ROWS)
    assert found == sorted(tuple(row["input_ids"]) for row in stored.dataset)
    assert stream.longest == 9
    batch = collator_for(model.config, tokenizer)([next(rows), next(rows)])
    assert batch["decoder_input_ids"][:, 0].tolist() == [PAD, PAD]
