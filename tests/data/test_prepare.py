"""What a trainer gets: cached, mixed and streamed."""

import json
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from llmkd.data import cache
from llmkd.data.counts import DataCounts
from llmkd.data.prepare import prepare, rows_of_parts
from llmkd.data.stream import SHUFFLED_AT_ONCE, ExampleStream, _shuffled
from llmkd.data.tokenize import Example
from llmkd.errors import InputError
from llmkd.recipe.data import DataSource

SOURCE: TypeAdapter = TypeAdapter(DataSource)


def read(data, tokenizer, seed=0):
    progress = lambda done, total, **figures: None  # noqa: E731
    return prepare(SOURCE.validate_python(data), tokenizer, seed=seed, progress=progress)


@pytest.fixture
def file(tmp_path):
    def write(name, digits, num_rows):
        path = tmp_path / name
        rows = [{"text": str(digits) * (1 + i)} for i in range(num_rows)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokenized"


def entries(folder):
    return sorted(path for path in folder.iterdir() if path.is_dir())


def test_rows_are_tokenized_once(file, tokenizer, fresh_cache, monkeypatch):
    data = {"dataset_name": str(file("a.jsonl", 1, 5))}
    first = read(data, tokenizer)
    monkeypatch.setattr(cache, "_write", None)  # would raise when called
    again = read(data, tokenizer)
    assert again.dataset[:] == first.dataset[:]
    assert again.counts == first.counts
    # Neither packing nor the file's name changes what is in the cache.
    read({**data, "packing": True}, tokenizer)
    assert len(entries(fresh_cache)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 3},
        {"append_eos": False},
        {"num_examples": 2},
        {"columns": {"text": "text2"}},
    ],
)
def test_whatever_changes_the_examples_makes_another_entry(file, tokenizer, fresh_cache, change):
    path = file("a.jsonl", 1, 5)
    path.write_text(path.read_text().replace("}", ', "text2": "22"}'))
    read({"dataset_name": str(path)}, tokenizer)
    changed = read({"dataset_name": str(path)} | change, tokenizer)
    assert len(entries(fresh_cache)) == 2
    assert changed.counts.num_tokens != 5 + 15 + 5


@pytest.mark.parametrize("change", [{"split": "validation"}, {"num_examples": 4}])
def test_a_tasks_fields_and_its_seed_make_another_entry(tokenizer, fresh_cache, change):
    task = {"kind": "task", "task": "named_intents", "num_examples": 5}
    read(task, tokenizer)
    read(task, tokenizer)
    assert len(entries(fresh_cache)) == 1
    read(task | change, tokenizer)
    read(task, tokenizer, seed=1)
    assert len(entries(fresh_cache)) == 3


def test_how_special_tokens_in_text_are_read_makes_another_entry(file, tokenizer, fresh_cache):
    data = {"dataset_name": str(file("a.jsonl", 1, 5))}
    read(data, tokenizer)
    tokenizer.split_special_tokens = True
    read(data, tokenizer)
    assert len(entries(fresh_cache)) == 2


def test_changed_rows_and_another_tokenizer_make_another_entry(file, tokenizer, fresh_cache):
    path = file("a.jsonl", 1, 5)
    read({"dataset_name": str(path)}, tokenizer)
    file("a.jsonl", 2, 5)
    assert set(read({"dataset_name": str(path)}, tokenizer).dataset[0]["input_ids"]) == {1, 2, 6}
    assert len(entries(fresh_cache)) == 2
    tokenizer.add_tokens(["11"])
    read({"dataset_name": str(path)}, tokenizer)
    assert len(entries(fresh_cache)) == 3


def test_a_broken_entry_is_made_again(file, tokenizer, fresh_cache, capsys):
    data = {"dataset_name": str(file("a.jsonl", 1, 50))}
    whole = read(data, tokenizer).dataset[:]
    (entry,) = entries(fresh_cache)
    examples = entry / cache.EXAMPLES
    for broken in (b"", examples.read_bytes()[:-700], b"rubbish"):
        examples.write_bytes(broken)
        assert read(data, tokenizer).dataset[:] == whole
        assert "is broken and is made again" in capsys.readouterr().err


def test_an_entry_that_was_not_finished_is_not_taken(file, tokenizer, fresh_cache, monkeypatch):
    data = {"dataset_name": str(file("a.jsonl", 1, 5))}
    monkeypatch.setattr(cache, "publish", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        read(data, tokenizer)
    monkeypatch.undo()
    monkeypatch.setenv("LLMKD_CACHE", str(fresh_cache.parent))
    assert read(data, tokenizer).counts.num_rows == 5


def test_bad_rows_leave_no_entry(tmp_path, tokenizer, fresh_cache):
    (tmp_path / "a.jsonl").write_text('{"text": "1"}\n{"text": 7}\n')
    for _ in range(2):
        with pytest.raises(InputError, match="in 1 of 2 rows, first in row 2: 7"):
            read({"dataset_name": str(tmp_path / "a.jsonl")}, tokenizer)
    assert [path.suffix for path in fresh_cache.iterdir()] == [".lock"]


@given(
    st.lists(st.tuples(st.integers(1, 50), st.floats(0.1, 10)), min_size=2, max_size=5),
    st.integers(1, 500) | st.none(),
)
def test_shares_add_up_and_are_as_close_as_whole_rows_can_be(parts, total):
    available, weights = [a for a, _ in parts], [w for _, w in parts]
    rows = rows_of_parts(available, weights, total)
    shares = [weight / sum(weights) for weight in weights]
    if total is None:
        total = sum(rows)
        # Nothing is repeated, and one row more in all would need a row that is not there.
        assert all(r <= a for r, a in zip(rows, available, strict=True))
        assert any((total + 1) * s > a - 1e-6 for s, a in zip(shares, available, strict=True))
    assert sum(rows) == total
    assert all(abs(r - s * total) < 1 + 1e-6 for r, s in zip(rows, shares, strict=True))


def test_a_mixture_takes_each_source_by_its_weight(file, tokenizer):
    sources = [
        {"dataset_name": str(file("a.jsonl", 1, 30)), "weight": 2},
        {"dataset_name": str(file("b.jsonl", 2, 6)), "weight": 1},
    ]
    ids = lambda data: [set(row) - {1, 2} for row in data.dataset["input_ids"]]  # noqa: E731
    least = read({"kind": "mixture", "sources": sources}, tokenizer)
    assert ids(least) == [{5}] * 12 + [{6}] * 6
    # The second is repeated: every row three times, and two of them once more.
    more = read({"kind": "mixture", "sources": sources, "num_examples": 60}, tokenizer)
    assert ids(more) == [{5}] * 40 + [{6}] * 20
    lengths = [len(row) for row in more.dataset["input_ids"][40:]]
    assert sorted(lengths.count(length) for length in set(lengths)) == [3, 3, 3, 3, 4, 4]
    again = read({"kind": "mixture", "sources": sources, "num_examples": 60}, tokenizer)
    assert again.dataset[:] == more.dataset[:]
    other = read({"kind": "mixture", "sources": sources, "num_examples": 60}, tokenizer, seed=1)
    assert other.dataset[:] != more.dataset[:]


def test_packing_uses_max_length(file, tokenizer):
    data = {"dataset_name": str(file("a.jsonl", 1, 8)), "max_length": 20, "packing": True}
    found = read(data, tokenizer)
    lengths = [3, 4, 5, 6, 7, 8, 9, 10]
    assert sum(found.lengths) == sum(lengths) == found.counts.num_tokens
    assert max(found.lengths) == 20
    assert found.counts.num_sequences == len(found.dataset) == 3


def numbered(start, stop):
    return [Example([n], [], 1, 0, 0, b"") for n in range(start, stop)]


def streamed(sources, weights, seed=0, counts=None):
    counts = counts or DataCounts()
    begin = [lambda s=source: iter(s) for source in sources]
    stream = ExampleStream(begin, weights, seed=seed, packed_length=None, counts=counts)
    return (row["input_ids"][0] for row in stream)


def test_a_stream_gives_every_row_once_a_pass_in_an_order_of_the_seed():
    rows = list(islice(streamed([numbered(0, 50)], [1.0]), 150))
    passes = [rows[:50], rows[50:100], rows[100:]]
    assert all(sorted(one) == list(range(50)) for one in passes)
    assert passes[0] != passes[1] != passes[2]
    assert rows == list(islice(streamed([numbered(0, 50)], [1.0]), 150))
    assert rows != list(islice(streamed([numbered(0, 50)], [1.0], seed=1), 150))


def test_a_streamed_mixture_draws_by_weight_and_only_what_ends_begins_again():
    counts = DataCounts()
    rows = streamed([numbered(0, 30_000), numbered(90_000, 90_100)], [9.0, 1.0], counts=counts)
    taken = list(islice(rows, 15_000))
    small = [n for n in taken if n >= 90_000]
    assert 0.09 < len(small) / 15_000 < 0.11
    # The small source came round some fifteen times, the large one has not repeated a row.
    assert len(set(small)) == 100
    large = [n for n in taken if n < 90_000]
    assert len(set(large)) == len(large)
    assert counts.num_rows == 15_000


def test_shuffling_holds_no_more_than_it_says(monkeypatch):
    monkeypatch.setattr("llmkd.data.stream.SHUFFLED_AT_ONCE", 10)
    read_so_far = []

    def items():
        for n in range(100):
            read_so_far.append(n)
            yield n

    import numpy as np

    out = []
    for item in _shuffled(items(), np.random.default_rng(0)):
        out.append(item)
        assert len(read_so_far) - len(out) <= 10
    assert sorted(out) == list(range(100))
    assert out != list(range(100))
    assert SHUFFLED_AT_ONCE > 10


@pytest.mark.real_data
def test_real_stories_pack_tightly(real_data, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(real_data / "models" / "stories260K" / "hf")
    data = {"dataset_name": str(real_data / "tinystories"), "max_length": 2048, "packing": True}
    found = read(data, tokenizer)
    assert found.counts.num_rows == 728
    assert found.counts.num_tokens / (2048 * found.counts.num_sequences) > 0.98
