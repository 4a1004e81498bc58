import torch
from hypothesis import given
from hypothesis import strategies as st

from llmkd.data.collate import Collator

PAD = 0


def row(ids, num_prompt_tokens=0):
    return {"input_ids": ids, "num_prompt_tokens": num_prompt_tokens}


def test_a_batch_worked_by_hand():
    batch = Collator(PAD)([row([1, 5, 6, 7, 2], 3), row([1, 8, 2], 0)])
    assert batch["input_ids"].tolist() == [[1, 5, 6, 7, 2], [1, 8, 2, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    # The prompt is 1 5 6: the first trained token is 7, predicted from 6.
    assert batch["target_ids"].tolist() == [[-100, -100, 7, 2, -100], [8, 2, -100, -100, -100]]
    assert all(tensor.dtype == torch.long for tensor in batch.values())


def test_the_first_token_is_never_a_target():
    no_prompt = Collator(PAD)([row([5, 6, 7], 0)])["target_ids"]
    assert no_prompt.tolist() == [[6, 7, -100]]
    assert no_prompt.tolist() == Collator(PAD)([row([5, 6, 7], 1)])["target_ids"].tolist()


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
        ids, first = given_row["input_ids"], max(given_row["num_prompt_tokens"], 1)
        trained = batch["target_ids"][i] != -100
        assert trained.nonzero().flatten().tolist() == list(range(first - 1, len(ids) - 1))
        assert batch["target_ids"][i][trained].tolist() == ids[first:]
        assert batch["input_ids"][i][batch["attention_mask"][i] == 1].tolist() == ids
