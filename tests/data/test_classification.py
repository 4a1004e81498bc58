import json

import pytest
import torch

from llmkd.check.rows import read_rows
from llmkd.data.classification import LabelCollator, encode, labelled_rows, prepare_labelled
from llmkd.data.words import word_tokenizer
from llmkd.errors import InputError
from llmkd.recipe.data import IntentTask, LabelledRows

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d"]
PAD, UNK, CLS, SEP, A, B, C, D = range(8)


@pytest.fixture
def words():
    return word_tokenizer({word: i for i, word in enumerate(WORDS)})


@pytest.fixture
def rows_of(tmp_path):
    def read(rows, **fields):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = LabelledRows(kind="classification", dataset_name=str(path), **fields)
        return labelled_rows(source, seed=0)

    return read


def test_labels_become_text_and_columns_are_renamed(rows_of):
    rows = rows_of([{"s": "a", "y": 1}, {"s": "b", "y": 0}], columns={"text": "s", "label": "y"})
    assert rows == [{"text": "a", "label": "1"}, {"text": "b", "label": "0"}]


def test_a_pair_is_read_where_there_is_one(rows_of):
    row = {"text": "a", "text_pair": "b", "label": True, "other": 1}
    assert rows_of([row]) == [{"text": "a", "text_pair": "b", "label": "true"}]


def test_a_second_text_in_a_later_row_only_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "label": 0}\n{"text": "b", "label": 1, "text_pair": "c"}\n')
    source = LabelledRows(kind="classification", dataset_name=str(path))
    message = "row 2 has a `text_pair`, and the first row has none"
    with pytest.raises(InputError, match=message):
        labelled_rows(source, seed=0)
    with pytest.raises(InputError, match=message):
        read_rows(source, "labelled")
    first = source.model_copy(update={"num_examples": 1})
    assert len(labelled_rows(first, seed=0)) == 1
    assert read_rows(first, "labelled").sample[0] == {"text": "a", "label": 0}


def test_rows_without_a_label_are_refused_and_counted(rows_of):
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": None}, {"text": "c", "label": 1.5}]
    with pytest.raises(
        InputError, match=r"`label` is empty or not text or an integer .* in 2 of 3 rows"
    ):
        rows_of(rows)
    with pytest.raises(InputError, match="rename them to `text` and `text_pair` and `label`, or"):
        rows_of([{"text": "a", "y": "x"}])


def test_a_task_gives_its_own_rows():
    (row,) = labelled_rows(IntentTask(kind="task", task="intents", num_examples=1), seed=0)
    assert row.keys() == {"text", "label"}


def test_texts_are_framed_as_their_tokenizer_does(words):
    one, pair = encode([{"text": "a b"}], words, 9) + encode(
        [{"text": "a", "text_pair": "c d"}], words, 9
    )
    assert one.inputs == {"input_ids": [CLS, A, B, SEP], "token_type_ids": [0, 0, 0, 0]}
    assert pair.inputs["input_ids"] == [CLS, A, SEP, C, D, SEP]
    assert pair.inputs["token_type_ids"] == [0, 0, 0, 1, 1, 1]


def test_long_texts_are_cut_inside_their_frame_and_the_tokens_counted(words):
    rows = [{"text": "a"}, {"text": "a b c d a b"}, {"text": "b"}]
    found = encode(rows, words, 5)
    assert [row.inputs["input_ids"] for row in found] == [
        [CLS, A, SEP],
        [CLS, A, B, C, SEP],
        [CLS, B, SEP],
    ]
    assert [row.num_cut for row in found] == [0, 3, 0]
    (pair,) = encode([{"text": "a b c d", "text_pair": "d"}], words, 6)
    assert pair.inputs["input_ids"] == [CLS, A, B, SEP, D, SEP], "the longer text is cut"


@pytest.mark.parametrize(("row", "least"), [({"text": "a b"}, 3), ({"text": "a b", "text_pair": "c d"}, 5)])  # fmt: skip
def test_a_length_that_leaves_no_text_is_refused(words, row, least):
    with pytest.raises(InputError, match=f"leave no room for text; write max_length: {least} or"):
        encode([row], words, least - 1)
    (found,) = encode([row], words, least)
    assert len(found.inputs["input_ids"]) == least
    assert all(token in found.inputs["input_ids"] for token in ([A] if least == 3 else [A, C]))


def test_training_data_has_the_ids_of_labels_and_counts_rows(words):
    rows = [{"text": "a b c d", "label": "no"}, {"text": "a", "label": "yes"}]
    data = prepare_labelled(rows, {"yes": 0, "no": 1}, words, max_length=4)
    assert data.dataset["target"][:] == [1, 0]
    assert data.lengths == [4, 3]
    assert (data.counts.num_rows, data.counts.num_truncated, data.counts.num_tokens_cut) == (
        2,
        1,
        2,
    )
    assert data.counts.num_trained_tokens == 2, "one target per row"
    assert data.longest == 4


def test_a_batch_is_padded_on_the_right_and_has_one_target_per_row():
    rows = [
        {"input_ids": [CLS, A, B, SEP], "token_type_ids": [0, 0, 1, 1], "target": 2},
        {"input_ids": [CLS, SEP], "token_type_ids": [0, 0], "target": 0},
    ]
    batch = LabelCollator(PAD)(rows)
    assert batch["input_ids"].tolist() == [[CLS, A, B, SEP], [CLS, SEP, PAD, PAD]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]
    assert batch["target_ids"].tolist() == [2, 0]
    assert LabelCollator(7)(rows)["input_ids"][1].tolist() == [CLS, SEP, 7, 7]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
