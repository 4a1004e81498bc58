import json

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer

from llmkd.check.facts import NotKnownError
from llmkd.check.tasks import NUM_SUMS
from llmkd.check.vocabulary import ADDITION, Frame, read_tokenizer
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
    assert (ours.bos_token, ours.frame()) == ("<bos>", Frame(adds_bos=True, adds_eos=False))
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
    "content",
    [
        *[b"", b"{", b"[]", b"{}", b"\xff\x00", b'{"model": {"type": "BPE"}}', b"null", b"1"],
        *[b'{"model": {"vocab": {"a": "b"}}}', b'{"model": {"vocab": [1]}}', b"[" * 100_000],
        *[b'{"model": {"vocab": {}}, "added_tokens": [3]}', b'{"model": {"vocab": {"a": true}}}'],
    ],
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
    Tokenizer(models.WordLevel({"b": 0}, unk_token="none")).save(str(tmp_path / "tokenizer.json"))

    found = read_tokenizer(tmp_path)
    assert found.size == 1
    with pytest.raises(NotKnownError, match="cannot read the text"):
        found.length_of_text("a")


@pytest.mark.parametrize(
    "model",
    [
        models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]),
        models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}),
        models.Unigram([("<unk>", 0.0), ("a", -1.0), ("ab", -2.0)], 0, False),
        models.WordLevel({"a": 0, "<unk>": 4}, unk_token="<unk>"),
    ],
    ids=lambda model: type(model).__name__,
)
def test_every_kind_of_tokenizer_has_the_vocabulary_that_it_says(model, tmp_path):
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.add_tokens(["a"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))

    assert read_tokenizer(tmp_path).vocabulary == tokenizer.get_vocab()


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("token", ['"merges": [', "merges", ', "merges":['])
def test_tokens_that_look_like_merges_are_tokens(token, indent, tmp_path):
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, token: 3}, [("a", "b")]))
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    path.write_text(json.dumps(json.loads(path.read_text()), indent=indent))

    assert read_tokenizer(tmp_path).vocabulary == tokenizer.get_vocab()


def test_what_comes_after_the_merges_is_read_too(tmp_path):
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    tokenizer.add_tokens(["c"])
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = content.pop("added_tokens")
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))

    assert read_tokenizer(tmp_path).vocabulary == {"a": 0, "b": 1, "ab": 2, "c": 3}


def test_copies_of_one_tokenizer_are_read_once(tokenizer, tmp_path, monkeypatch):
    from llmkd.check import vocabulary

    folders = [tmp_path / "teacher", tmp_path / "student"]
    tokenizer.add_tokens(["only here"])
    for folder in folders:
        tokenizer.save_pretrained(folder)
    read = []
    parsed = vocabulary._parsed
    monkeypatch.setattr(vocabulary, "_parsed", lambda content: read.append(1) or parsed(content))

    one, other = (read_tokenizer(folder) for folder in folders)
    assert len(read) == 1
    assert one.vocabulary == other.vocabulary
    assert one.vocabulary is not other.vocabulary
