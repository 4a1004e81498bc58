import torch
from hypothesis import given
from hypothesis import strategies as st

from llmkd.data.collate import Collator
from llmkd.data.packing import joined

PAD = 0


def row(ids, num_prompt_tokens=0):
    return {"input_ids": ids, "trained_spans": [max(num_prompt_tokens, 1), len(ids)]}


def packed(*documents):
    return joined([{**row(*document), "tokens_key": b""} for document in documents])


def test_a_batch_worked_by_hand():
    batch = Collator(PAD)([row([1, 5, 6, 7, 2], 3), row([1, 8, 2], 0)])
    assert batch["input_ids"].tolist() == [[1, 5, 6, 7, 2], [1, 8, 2, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    # The prompt is 1 5 6: the first trained token is 7, predicted from 6.
    assert batch["target_ids"].tolist() == [[-100, -100, 7, 2, -100], [8, 2, -100, -100, -100]]
    assert all(tensor.dtype == torch.long for tensor in batch.values())


def test_several_spans_are_trained_on():
    batch = Collator(PAD)([{"input_ids": [1, 5, 6, 7, 8, 2], "trained_spans": [1, 2, 4, 6]}])
    assert batch["target_ids"].tolist() == [[5, -100, -100, 8, 2, -100]]


def test_a_packed_batch_worked_by_hand():
    batch = Collator(PAD)([packed(([1, 5, 6, 2], 2), ([1, 7, 2],)), packed(([1, 8, 2],))])
    assert batch["input_ids"].tolist() == [[1, 5, 6, 2, 1, 7, 2], [1, 8, 2, 0, 0, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 0, 1, 2, 3]]
    # No document's last token predicts the next document's first.
    targets = [[-100, 6, 2, -100, 7, 2, -100], [8, 2, -100, -100, -100, -100, -100]]
    assert batch["target_ids"].tolist() == targets
    assert "attention_mask" not in batch


def test_a_flat_batch_is_one_row_without_padding():
    rows = [packed(([1, 5, 2],), ([1, 2],)), packed(([1, 8, 9, 2], 3))]
    batch = Collator(PAD, is_flat=True)(rows)
    assert batch["input_ids"].tolist() == [[1, 5, 2, 1, 2, 1, 8, 9, 2]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2, 3]]
    assert batch["target_ids"].tolist() == [[5, 2, -100, 2, -100, -100, -100, 2, -100]]


def test_a_padding_token_within_the_text_is_trained_on():
    batch = Collator(PAD)([row([1, PAD, 2]), row([1, 3, 4, 5])])
    assert batch["target_ids"][0].tolist() == [PAD, 2, -100, -100]
    assert batch["attention_mask"][0].tolist() == [1, 1, 1, 0]


def test_other_columns_are_ignored():
    assert set(Collator(PAD)([row([1, 2]) | {"weight": 3}])) == {
        "input_ids",
        "attention_mask",
        "target_ids",
    }


ROWS = st.lists(st.integers(0, 9), min_size=2, max_size=12).flatmap(
    lambda ids: st.builds(row, st.just(ids), st.integers(0, len(ids) - 1))
)


@given(st.lists(ROWS, min_size=1, max_size=5))
def test_targets_are_the_trained_tokens_each_beside_the_token_before_it(rows):
    batch = Collator(PAD)(rows)
    for i, given_row in enumerate(rows):
        ids, (first, _) = given_row["input_ids"], given_row["trained_spans"]
        trained = batch["target_ids"][i] != -100
        assert trained.nonzero().flatten().tolist() == list(range(first - 1, len(ids) - 1))
        assert batch["target_ids"][i][trained].tolist() == ids[first:]
        assert batch["input_ids"][i][batch["attention_mask"][i] == 1].tolist() == ids
