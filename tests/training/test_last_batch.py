"""Rows that only fill up an epoch's last batch are left out, and with them what a teacher said of them."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from llmkd.training.last_batch import num_own, without_repeats


@given(st.integers(1, 200), st.integers(1, 8), st.integers(1, 5))
def test_over_all_processes_every_row_is_there_once(num_rows, batch_size, num_processes):
    whole = -(-num_rows // (batch_size * num_processes)) - 1
    last = sum(num_own(num_rows, batch_size, num_processes, p) for p in range(num_processes))
    assert whole * batch_size * num_processes + last == num_rows


def test_22_rows_by_two_processes_in_batches_of_4():
    # 16 in whole batches; of the last 6 the first process has 4, the second 2.
    assert [num_own(22, 4, 2, process) for process in range(2)] == [4, 2]
    # 4 left: the second process has none.
    assert [num_own(20, 4, 2, process) for process in range(2)] == [4, 0]
    assert [num_own(24, 4, 2, process) for process in range(2)] == [4, 4]


BATCH = {
    "input_ids": torch.ones(3, 4, dtype=torch.long),
    "target_ids": torch.tensor([[-100, 5, 6, -100], [-100, -100, 7, -100], [8, 9, 10, 11]]),
    "teacher_log_probs": torch.arange(7)[:, None],
}


def test_targets_and_the_teachers_answers_go_together():
    found = without_repeats(BATCH, 2)
    assert torch.equal(found["target_ids"][:2], BATCH["target_ids"][:2])
    assert (found["target_ids"][2] == -100).all()
    assert found["teacher_log_probs"].flatten().tolist() == [0, 1, 2]
    assert found["input_ids"] is BATCH["input_ids"]
    assert BATCH["target_ids"][2, 0] == 8, "the batch itself is as it was"
    assert len(without_repeats(BATCH, 0)["teacher_log_probs"]) == 0


def test_a_row_of_two_parts_is_one_row():
    # Rows: both parts, the second alone, both parts.
    parts = torch.tensor([0, 1, 1, 0, 1])
    batch = {
        "target_ids": torch.ones(5, 3, dtype=torch.long),
        "part_ids": parts[:, None].expand(5, 3),
    }
    for num_rows, num_sequences in [(0, 0), (1, 2), (2, 3), (3, 5)]:
        left = (without_repeats(batch, num_rows)["target_ids"] == 1).all(1)
        assert left.tolist() == [True] * num_sequences + [False] * (5 - num_sequences)


def test_what_cannot_be_told_apart_stays():
    numbers = {"target_ids": torch.tensor([0.5, 1.5])}
    assert without_repeats(numbers, 1) is numbers
    flat = {"target_ids": torch.ones(1, 6, dtype=torch.long), "position_ids": torch.zeros(1, 6)}
    assert without_repeats(flat, 2) is flat
    assert (without_repeats(flat, 0)["target_ids"] == -100).all()
