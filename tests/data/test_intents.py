from collections import Counter

import pytest
from transformers import AutoTokenizer

from llmkd.data import tasks
from llmkd.data.intents import LABELS, MOST_EXAMPLES, make_rows, most_words, vocabulary
from llmkd.data.sources import iter_rows
from llmkd.errors import InputError
from llmkd.recipe.data import IntentTask, NamedIntentTask

FIRST_ROWS = [
    {"text": "i want to pay power from business account", "label": "pay_bill"},
    {"text": "could you please i need a bed in cairo from tuesday", "label": "book_hotel"},
    {"text": "can cancel my flight to quito monday for me", "label": "cancel_trip"},
]


def task(num_examples=200, **fields):
    return IntentTask(kind="task", task="intents", num_examples=num_examples, **fields)


def named(num_examples=200, **fields):
    return NamedIntentTask(kind="task", task="named_intents", num_examples=num_examples, **fields)


def texts(num_examples, seed=0, **fields):
    return [row["text"] for row in make_rows(task(num_examples, **fields), seed)]


def test_the_first_requests_are_the_same_on_every_machine():
    rows = make_rows(task(3), 0)
    assert rows == FIRST_ROWS


def test_the_seed_alone_decides_the_rows_and_fewer_are_the_first_ones():
    assert texts(500, 3) == texts(500, 3)
    assert texts(50, 3) == texts(500, 3)[:50]
    assert texts(50, 3) != texts(50, 4)


def test_no_text_comes_twice_and_splits_share_none_whatever_the_seed():
    owner = {}
    for split in MOST_EXAMPLES:
        for seed in (0, 1):
            found = texts(1000, seed, split=split)
            assert len(set(found)) == 1000
            for text in found:
                assert owner.setdefault(text, split) == split


@pytest.mark.parametrize(("split", "most"), MOST_EXAMPLES.items())
def test_every_split_gives_what_it_promises_and_refuses_more(split, most):
    assert len(texts(most, split=split)) == most
    with pytest.raises(InputError, match=f"write num_examples: {most} or less"):
        make_rows(task(most + 1, split=split), 0)


def test_labels_come_about_equally_often():
    counts = Counter(row["label"] for row in make_rows(task(12_000), 0))
    assert set(counts) == set(LABELS)
    assert min(counts.values()) > 0.7 * max(counts.values())


def test_words_get_lost_so_that_texts_have_several_labels():
    # Now and then two seeds leave the same words of different templates: 23 times here.
    labels = {}
    for seed in range(20):
        for row in make_rows(task(2000), seed):
            labels.setdefault(row["text"], set()).add(row["label"])
    assert sum(len(found) > 1 for found in labels.values()) > 10


def test_the_tokenizer_knows_every_word_and_survives_saving(tmp_path):
    tasks.build_tokenizer(task()).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.get_vocab() == vocabulary()
    for text in texts(500):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert [tokenizer.cls_token_id, tokenizer.sep_token_id] == [ids[0], ids[-1]]
        assert len(ids) == len(text.split()) + 2 <= most_words() + 2
    pair = tokenizer("call anna", "pay rent now")
    assert pair["token_type_ids"] == [0] * 4 + [1] * 4
    assert tokenizer.convert_ids_to_tokens(pair["input_ids"])[-1] == "[SEP]"


@pytest.mark.parametrize("split", MOST_EXAMPLES)
def test_named_intents_are_the_same_requests_with_the_label_as_what_is_written(split):
    rows = make_rows(task(split=split), 3)
    expected = [
        {"prompt": row["text"], "completion": row["label"], "answer": row["label"]} for row in rows
    ]
    assert tasks.make_rows(named(split=split), 3) == expected
    asked = [row["text"] for row in iter_rows(named(split=split), seed=3, need="texts")]
    assert asked == [row["text"] for row in rows]


def test_no_more_requests_are_named_than_there_are():
    with pytest.raises(InputError, match="write num_examples: 4000 or less"):
        tasks.make_rows(named(4001, split="test"), 0)


def test_a_model_that_names_intents_reads_every_word_and_writes_every_label(tmp_path):
    tasks.build_tokenizer(named()).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for row in tasks.make_rows(named(2000), 0):
        ids = tokenizer(row["prompt"])["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert len(ids) == 1 + len(row["prompt"].split())
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == row["prompt"]
    for label in LABELS:
        (written,) = tokenizer(label, add_special_tokens=False)["input_ids"]
        assert written != tokenizer.unk_token_id
        assert (
            tokenizer.decode([written, tokenizer.eos_token_id], skip_special_tokens=True) == label
        )
