import json

import pyarrow
import pyarrow.parquet
import pytest

from llmkd.data.sources import iter_rows, load_rows
from llmkd.errors import InputError
from llmkd.recipe.data import AdditionTask, DatasetSource

EXAMPLES = [{"prompt": f"p{i}", "completion": f"c{i}"} for i in range(5)]
TEXTS = [{"text": f"text {i}"} for i in range(5)]


def load(path, need="example", **fields):
    return load_rows(DatasetSource(dataset_name=str(path), **fields), seed=0, need=need)


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_jsonl_rows_come_out_in_order_without_other_columns(tmp_path):
    rows = [row | {"id": i, "tags": ["a", i]} for i, row in enumerate(EXAMPLES)]
    assert load(write_jsonl(tmp_path / "a.jsonl", rows)).to_list() == EXAMPLES
    assert load(write_jsonl(tmp_path / "t.jsonl", TEXTS)).to_list() == TEXTS


def test_prompt_and_completion_are_taken_before_text(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [EXAMPLES[0] | TEXTS[0]])
    assert load(path).to_list() == EXAMPLES[:1]
    assert load(path, need="scored").to_list() == TEXTS[:1]
    assert load(path, need="prompt").to_list() == [{"prompt": "p0"}]


def test_parquet_keeps_only_what_is_needed(tmp_path):
    table = pyarrow.Table.from_pylist([row | {"picture": b"..."} for row in EXAMPLES])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet").to_list() == EXAMPLES


def test_a_text_file_is_one_row(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo é\n", encoding="utf-8")
    assert load(tmp_path / "a.txt").to_list() == [{"text": "one\n\ntwo é\n"}]


def test_a_folder_gives_the_files_of_its_split(tmp_path):
    write_jsonl(tmp_path / "train-00000-of-00002.jsonl", TEXTS[:2])
    write_jsonl(tmp_path / "train-00001-of-00002.jsonl", TEXTS[2:4])
    write_jsonl(tmp_path / "validation.jsonl", TEXTS[4:])
    (tmp_path / "README.md").write_text("not data")
    assert load(tmp_path).to_list() == TEXTS[:4]
    assert load(tmp_path, dataset_split="validation").to_list() == TEXTS[4:]
    with pytest.raises(InputError, match=r"no file of split test, only .*validation\.jsonl"):
        load(tmp_path, dataset_split="test")


def test_a_folder_without_named_splits_is_all_train(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", TEXTS[:2])
    write_jsonl(tmp_path / "b.jsonl", TEXTS[2:])
    assert load(tmp_path).to_list() == TEXTS


def test_a_stage_folder_gives_its_data(tmp_path):
    write_jsonl(tmp_path / "data.jsonl", EXAMPLES)
    write_jsonl(tmp_path / "progress.jsonl", [{"batch": 0}])
    assert load(tmp_path).to_list() == EXAMPLES


def test_a_split_of_a_stages_data_is_the_file_of_its_name(tmp_path):
    write_jsonl(tmp_path / "data.jsonl", EXAMPLES)
    write_jsonl(tmp_path / "undecided.jsonl", EXAMPLES[:2])
    write_jsonl(tmp_path / "no_answer.jsonl", EXAMPLES[2:])
    write_jsonl(tmp_path / "progress.jsonl", [{"batch": 0}])
    assert load(tmp_path).to_list() == EXAMPLES
    assert load(tmp_path, dataset_split="undecided").to_list() == EXAMPLES[:2]
    assert load(tmp_path, dataset_split="no_answer").to_list() == EXAMPLES[2:]
    with pytest.raises(InputError, match=r"no file of split other, only data\.jsonl, no_answer"):
        load(tmp_path, dataset_split="other")


def test_what_a_stage_wrote_trains_on_the_kept_question_or_on_what_was_asked(tmp_path):
    turns = [{"role": "user", "content": "Q: q?"}, {"role": "assistant", "content": "a"}]
    more = {"completion": "a", "number": 0, "question": "q?"}
    for asked in ({"prompt": "Q: q?"}, {"messages": turns}):
        path = write_jsonl(tmp_path / "data.jsonl", [asked | more])
        written = {"completion": "a"} | asked if "prompt" in asked else asked
        assert load(path).to_list() == [written]
        renamed = load(path, columns={"prompt": "question"}).to_list()
        assert renamed == [{"prompt": "q?", "completion": "a"}]


def test_num_examples_takes_the_first_rows_and_reads_no_further(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    path.write_text(path.read_text() + "{broken", encoding="utf-8")
    assert load(path, num_examples=3).to_list() == TEXTS[:3]


def test_a_task_makes_its_rows_from_the_seed():
    task = AdditionTask(kind="task", num_examples=4)
    rows = load_rows(task, seed=1)
    assert rows.column_names == ["prompt", "completion"]
    assert rows.to_list() == load_rows(task, seed=1).to_list()
    assert rows.to_list() != load_rows(task, seed=2).to_list()
    assert load_rows(task, seed=1, need="prompt").column_names == ["prompt"]


def test_a_data_set_of_prompts_serves_where_prompts_are_needed(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "p"}])
    assert load(path, need="prompt").to_list() == [{"prompt": "p"}]
    with pytest.raises(
        InputError, match="the columns are prompt; rename them to `messages`, or `prompt` and"
    ):
        load(path)


def test_a_missing_file_names_its_neighbours(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", TEXTS)
    with pytest.raises(InputError, match=r"there is no .*traim\.jsonl; beside it: train\.jsonl;"):
        load(tmp_path / "traim.jsonl")
    with pytest.raises(InputError, match="does not exist either"):
        load(tmp_path / "nowhere" / "train.jsonl")


def test_an_unknown_suffix_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("text\nx\n")
    with pytest.raises(InputError, match=r"a\.csv is of no known type; .*\.parquet or \.txt"):
        load(tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_an_empty_file_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(InputError, match="empty"):
        load(tmp_path / name)


def test_a_folder_without_data_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no file that is \.jsonl, \.parquet or \.txt"):
        load(tmp_path)


def test_other_columns_are_named(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": "a"}])
    with pytest.raises(
        InputError, match="question, answer; rename them to `messages`, or `prompt`"
    ):
        load(path)
    pyarrow.parquet.write_table(pyarrow.table({"question": ["q"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="the columns are question; "):
        load(tmp_path / "a.parquet")


def test_bad_values_are_counted_and_the_first_is_shown(tmp_path):
    bad = [*EXAMPLES[:2], {"prompt": "p", "completion": 7}, {"prompt": "", "completion": ""}]
    with pytest.raises(InputError) as error:
        load(write_jsonl(tmp_path / "a.jsonl", bad))
    assert len(error.value.problems) == 2
    assert "`prompt` is empty or no text in 1 of 4 rows, first in row 4: ''" in str(error.value)
    assert "`completion` is empty or no text in 2 of 4 rows, first in row 3: 7" in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": ', r":2: no JSON \(Expecting value at column \d+\)"),
        (b"[1, 2]", ":2: a JSON list"),
        (b'{"text": "\xff"}', ":2: no UTF-8"),
    ],
)
def test_a_broken_line_is_named_by_its_number(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "x"}\n' + line + b"\n")
    with pytest.raises(InputError, match=message):
        load(tmp_path / "a.jsonl")


def test_a_broken_parquet_file_is_refused(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(InputError, match="no Parquet file"):
        load(tmp_path / "a.parquet")


def test_a_single_file_has_no_other_split(tmp_path):
    with pytest.raises(InputError, match="no split test"):
        load(write_jsonl(tmp_path / "a.jsonl", TEXTS), dataset_split="test")


def test_a_hub_name_that_cannot_be_had_says_what_to_write():
    with pytest.raises(InputError, match="nobody/nothing is no file or folder here, and the hub"):
        load("nobody/nothing")


@pytest.mark.real_data
def test_real_stories_load(real_data):
    assert len(load(real_data / "tinystories")) == 728
    assert len(load(real_data / "tinystories", dataset_split="validation")) == 80


def test_columns_say_what_is_which(tmp_path):
    rows = [{"question": "q", "answer": "a", "text": "t", "prompt": "not this"}]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    columns = {"prompt": "question", "completion": "answer"}
    assert load(path, columns=columns).to_list() == [{"prompt": "q", "completion": "a"}]
    assert load(path, need="prompt", columns=columns).to_list() == [{"prompt": "q"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet", columns={"text": "answer"}).to_list() == [{"text": "a"}]


def test_a_named_column_that_is_not_there_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"question": "q"}])
    with pytest.raises(InputError, match="no column for completion: answer; its columns are quest"):
        load(path, columns={"prompt": "question", "completion": "answer"})


TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_conversations_come_out_whole_and_are_taken_first(tmp_path, suffix):
    rows = [{"messages": TURNS, "text": "t", "prompt": "p"}]
    path = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        write_jsonl(path, rows)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert load(path).to_list() == [{"messages": TURNS}]


@pytest.mark.parametrize(
    "messages", [[], "text", [{"role": "user"}], [{"role": "", "content": "q"}], [["user", "q"]]]
)
def test_what_is_no_conversation_is_refused(tmp_path, messages):
    path = write_jsonl(tmp_path / "a.jsonl", [{"messages": TURNS}, {"messages": messages}])
    with pytest.raises(InputError, match=r"no list of \{role: .* in 1 of 2 rows, first in row 2"):
        load(path)


def test_a_stream_stops_at_the_first_bad_row(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [*TEXTS, {"text": ""}, *TEXTS])
    source = DatasetSource(dataset_name=str(path))
    rows = iter_rows(source, seed=0, is_stream=True)
    assert [next(rows) for _ in TEXTS] == TEXTS
    with pytest.raises(InputError, match="in 1 of 6 rows, first in row 6"):
        next(rows)
    with pytest.raises(InputError, match="in 1 of 11 rows"):
        list(iter_rows(source, seed=0))


def test_half_a_surrogate_pair_is_no_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": "\\ud83d half"}\n')
    with pytest.raises(InputError, match="no text in 1 of 2 rows, first in row 2"):
        load(tmp_path / "a.jsonl")


@pytest.mark.parametrize("line", ["[" * 100_000, '{"a": ' + "1" * 5000 + "}"])
def test_json_that_python_gives_up_on_names_its_line(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' + line + "\n")
    with pytest.raises(InputError, match=r"a\.jsonl:2: no JSON"):
        load(tmp_path / "a.jsonl")


def test_a_parquet_file_with_a_broken_page_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    rows = {"text": [f"row {i}" * 50 for i in range(500)]}
    pyarrow.parquet.write_table(pyarrow.table(rows), path)
    content = bytearray(path.read_bytes())
    content[200:400] = b"\xff" * 200
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.parquet: no Parquet file"):
        load(path)


def test_a_folder_named_like_a_file_is_passed_over(tmp_path):
    (tmp_path / "b.parquet").mkdir()
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    assert load(tmp_path).to_list() == TEXTS


@pytest.mark.parametrize("name", ["val.jsonl", "dev_1.jsonl", "valid-0.jsonl", "eval.x.jsonl"])
def test_what_is_named_after_another_split_is_not_trained_on(tmp_path, name):
    write_jsonl(tmp_path / name, TEXTS)
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    with pytest.raises(InputError, match="no file of split train, only"):
        load(tmp_path)
