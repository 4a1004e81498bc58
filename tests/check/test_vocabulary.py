import json

import pytest
from transformers import AutoTokenizer

from llmkd.check.facts import NotKnownError
from llmkd.check.lengths import NUM_SUMS
from llmkd.check.vocabulary import ADDITION, read_tokenizer
from llmkd.data import addition
from llmkd.data.tokenize import Tokenize
from llmkd.models.vocabulary import shared_vocab_size
from llmkd.recipe.data import AdditionTask, Sequences

SAMPLE = ["12+34=46", "hello", "", "0", "a b  c\n"]


def test_the_tasks_tokenizer_is_known_without_making_it(tokenizer):
    assert ADDITION.vocabulary == tokenizer.get_vocab()
    assert ADDITION.size == shared_vocab_size(tokenizer)


def test_a_saved_tokenizer_is_read_as_transformers_reads_it(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    ours = read_tokenizer(tmp_path)

    assert ours.vocabulary == AutoTokenizer.from_pretrained(tmp_path).get_vocab()
    assert (ours.bos_token, ours.adds_bos, ours.adds_eos) == ("<bos>", True, False)
    for text in SAMPLE:
        assert ours.count(text, True) == len(tokenizer(text)["input_ids"])
        assert ours.count(text, False) == len(tokenizer(text, add_special_tokens=False).input_ids)


def test_tokens_that_only_the_settings_name_are_counted(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "pad_token": "<other>"}))

    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert read_tokenizer(tmp_path).vocabulary == theirs.get_vocab()
    assert read_tokenizer(tmp_path).size == shared_vocab_size(theirs)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["stories260K", "llama2xs279K"])
def test_a_real_tokenizer_cuts_real_stories_into_as_many_tokens(name, real_data):
    folder = real_data / "models" / name / "hf"
    ours, theirs = read_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    texts = [
        json.loads(line)["text"]
        for line in (real_data / "tinystories" / "validation.jsonl").read_text().splitlines()[:20]
    ]
    examples = list(Tokenize(theirs, Sequences(max_length=10**6))({"text": t} for t in texts))

    assert ours.vocabulary == theirs.get_vocab()
    assert [ours.length_of_text(text) + 1 for text in texts] == [row.length for row in examples]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b"\xff\x00", b'{"model": {"type": "BPE"}}', b"null", b"1"]
)
def test_a_broken_tokenizer_is_not_known(content, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(content)

    with pytest.raises(NotKnownError, match=r"tokenizer.json: cannot be read"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["[]", "3", '{"bos_token": 3, "added_tokens_decoder": []}'])
def test_odd_settings_are_passed_over(content, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)

    assert read_tokenizer(tmp_path).vocabulary == tokenizer.get_vocab()


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_each_split_has_as_many_sums_as_the_table_says(digits):
    for split, count in NUM_SUMS[digits].items():
        task = AdditionTask(kind="task", digits=digits, num_examples=count + 1, split=split)
        with pytest.raises(ValueError, match=f"has only {count} sums"):
            addition.make_rows(task, seed=0)


def test_a_tokenizer_that_cannot_read_every_text_is_not_known(tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"b": 0}, unk_token="none")).save(str(tmp_path / "tokenizer.json"))

    with pytest.raises(NotKnownError, match="cannot read the text"):
        read_tokenizer(tmp_path)
