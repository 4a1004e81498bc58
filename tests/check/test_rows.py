import json

import pyarrow
import pyarrow.parquet
import pytest

from llmkd.check import rows
from llmkd.check.facts import NotKnownError
from llmkd.check.rows import read_rows
from llmkd.data.columns import COLUMNS
from llmkd.data.sources import iter_rows
from llmkd.errors import DataError, InputError
from llmkd.recipe.data import DatasetRows

ROWS = [{"prompt": f"{i}+1=", "completion": str(i + 1), "id": i} for i in range(300)]


def source(path, **fields):
    return DatasetRows(dataset_name=str(path), **fields)


def write_jsonl(path, content):
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


def test_lines_are_counted_and_the_first_are_read(tmp_path):
    found = read_rows(source(write_jsonl(tmp_path / "a.jsonl", ROWS)))

    assert (found.num_rows.value, found.num_rows.exactness) == (300, "exact")
    assert found.sample == [
        {"prompt": row["prompt"], "completion": row["completion"]} for row in ROWS[:200]
    ]


def test_blank_lines_and_a_missing_last_line_end_count_as_when_training(tmp_path):
    (tmp_path / "a.jsonl").write_text('\n{"text": "a"}\n\n   \n{"text": "b"}')

    assert read_rows(source(tmp_path / "a.jsonl")).num_rows.value == 2


def test_a_large_file_is_counted_by_its_first_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MOST_BYTES", 5000)
    found = read_rows(source(write_jsonl(tmp_path / "a.jsonl", ROWS)))

    assert found.num_rows.exactness == "estimate"
    assert found.num_rows.value == pytest.approx(300, rel=0.05)
    assert 50 < len(found.sample) < 200


def test_of_many_files_the_first_are_counted(tmp_path, monkeypatch):
    for number in range(20):
        write_jsonl(tmp_path / f"train-{number:02}.jsonl", ROWS[:10])
    monkeypatch.setattr(rows, "MOST_BYTES", 1000)
    read = []
    monkeypatch.setattr(rows, "_count_lines", lambda path: (read.append(path), (10, "exact"))[1])

    assert read_rows(source(tmp_path)).num_rows.value == 200
    assert 0 < len(read) < 10


def test_a_parquet_file_is_counted_by_its_metadata(tmp_path):
    table = pyarrow.Table.from_pylist(ROWS)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    found = read_rows(source(tmp_path / "a.parquet"))

    assert found.num_rows.value == 300
    assert found.sample[1] == {"prompt": "1+1=", "completion": "2"}


def test_a_text_file_is_one_row(tmp_path):
    (tmp_path / "a.txt").write_text("once\nupon")
    found = read_rows(source(tmp_path / "a.txt"))

    assert (found.num_rows.value, found.sample) == (1, [{"text": "once\nupon"}])


def test_columns_are_found_under_the_names_that_the_recipe_gives(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": "a", "text": "t"}])
    columns = {"prompt": "question", "completion": "answer"}

    found = read_rows(source(tmp_path / "a.jsonl", columns=columns))

    assert found.sample == [{"prompt": "q", "completion": "a"}]


def test_the_files_of_a_folder_are_those_of_its_split(tmp_path):
    for name, count in (("train-0", 3), ("train-1", 4), ("validation", 5)):
        write_jsonl(tmp_path / f"{name}.jsonl", ROWS[:count])

    assert read_rows(source(tmp_path)).num_rows.value == 7
    assert read_rows(source(tmp_path, dataset_split="validation")).num_rows.value == 5
    with pytest.raises(DataError, match="no file of split test, only train-0"):
        read_rows(source(tmp_path, dataset_split="test"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "the data set is empty"),
        ("a.jsonl", b"\n\n", "the data set is empty"),
        ("a.txt", b"", "the data set is empty"),
        ("a.jsonl", b'{"txt": "a"}\n', "the columns are txt; rename them to `messages`, or `prompt` and"),
        ("a.jsonl", b"{}\n", "the columns are none"),
        ("a.jsonl", b"text\n", "a.jsonl:1: no JSON; write one JSON object per line"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', "a.jsonl:2: no JSON object"),
        ("a.jsonl", b"\xff\xfe\n", "a.jsonl:1: no JSON"),
        ("a.parquet", b"PAR1", "no Parquet file"),
        ("a.parquet", b"", "no Parquet file"),
    ],
)  # fmt: skip
def test_data_that_no_run_can_use_is_refused(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(DataError, match=message):
        read_rows(source(tmp_path / name))


def test_a_file_has_no_split(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)

    with pytest.raises(DataError, match="is a single file and has no split test") as caught:
        read_rows(source(path, dataset_split="test"))
    assert caught.value.key == ("dataset_split",)


@pytest.mark.parametrize("name", ["a.csv", "a.json", "A.JSONL"])
def test_files_of_other_types_are_refused_as_by_a_run(name, tmp_path):
    (tmp_path / name).write_text('{"text": "a"}')
    for read in (read_rows, lambda found: list(iter_rows(found, seed=0))):
        with pytest.raises(DataError, match="is of no known type; write a file that is"):
            read(source(tmp_path / name))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("text", None),
        ("text", ""),
        ("text", 3),
        ("messages", None),
        ("messages", []),
        ("messages", ["a"]),
        ("messages", [{"role": "", "content": "a"}]),
        ("messages", [{"role": "user", "content": None}]),
    ],
)
def test_bad_values_are_refused_as_by_a_run(column, value, tmp_path):
    good = "a" if column == "text" else [{"role": "user", "content": "a"}]
    found = source(write_jsonl(tmp_path / "a.jsonl", [{column: good}, {column: value}]))

    with pytest.raises(InputError):
        list(iter_rows(found, seed=0))
    with pytest.raises(DataError, match=r"of row 2 is not .*; write it there, or leave"):
        read_rows(found)
    assert read_rows(found.model_copy(update={"num_examples": 1}))


def test_a_hub_name_is_not_known():
    with pytest.raises(NotKnownError, match="hub/name is not on this machine"):
        read_rows(source("hub/name"))
    with pytest.raises(NotKnownError):
        read_rows(source("a\0b"))


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"text": "a", "prompt": "b", "completion": "c"}, {}),
        ({"text": "a", "prompt": "b", "completion": "c"}, {"text": "text"}),
        ({"text": "a", "messages": [{"role": "user", "content": "b"}]}, {}),
        ({"body": "a", "prompt": "b", "completion": "c"}, {"text": "body"}),
        ({"question": "a", "completion": "c"}, {"prompt": "question"}),
        ({"question": "a", "text": "c"}, {"prompt": "question"}),
        ({"text": "a"}, {"prompt": "question"}),
        ({"a": "b"}, {}),
    ],
)
@pytest.mark.parametrize("need", COLUMNS)
def test_the_columns_are_those_that_a_run_takes(row, columns, need, tmp_path):
    found = source(write_jsonl(tmp_path / "a.jsonl", [row]), columns=columns)

    def outcome(read):
        try:
            return read()
        except InputError as error:
            return str(error)

    assert outcome(lambda: read_rows(found, need).sample) == outcome(
        lambda: list(iter_rows(found, seed=0, need=need))
    )
