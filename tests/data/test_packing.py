from hypothesis import given
from hypothesis import strategies as st

from llmkd.data.packing import best_fit, joined


def test_best_fit_worked_by_hand():
    # 6 opens a sequence with room for 4; 5 another with room for 5; 4 fits the first exactly,
    # 3 the second, and 2 what the second has left.
    assert best_fit([4, 6, 3, 5, 2], 10) == [[1, 0], [3, 2, 4]]


def test_the_fullest_sequence_with_room_is_taken():
    # Room for 3 and for 5: the 3 goes where it fits exactly, though the other was opened later.
    assert best_fit([5, 7, 3], 10) == [[1, 2], [0]]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(40, 80))
def test_every_example_is_packed_once_none_overflows_and_no_two_could_be_one(lengths, max_length):
    sequences = best_fit(lengths, max_length)
    assert sorted(i for sequence in sequences for i in sequence) == list(range(len(lengths)))
    totals = [sum(lengths[i] for i in sequence) for sequence in sequences]
    assert max(totals) <= max_length
    # As a best fit does: of any two sequences, together they would overflow.
    totals.sort()
    assert len(totals) < 2 or totals[0] + totals[1] > max_length


@given(st.lists(st.integers(1, 500), min_size=1, max_size=300))
def test_it_agrees_with_looking_at_every_sequence(lengths):
    """The textbook's quadratic form."""
    room, expected = [], []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [place for place, left in enumerate(room) if left >= lengths[index]]
        if fitting:
            place = min(fitting, key=lambda p: room[p])
        else:
            place = len(room)
            room.append(500)
            expected.append([])
        room[place] -= lengths[index]
        expected[place].append(index)
    ours = best_fit(lengths, 500)
    assert sorted(sum(lengths[i] for i in s) for s in ours) == sorted(500 - left for left in room)
    assert len(ours) == len(expected)


def test_joining_moves_the_spans():
    packed = joined(
        [
            {"input_ids": [1, 5, 2], "trained_spans": [1, 3], "tokens_key": b"a"},
            {"input_ids": [1, 6, 7, 2], "trained_spans": [1, 2, 3, 4], "tokens_key": b"b"},
        ]
    )
    assert packed == {
        "input_ids": [1, 5, 2, 1, 6, 7, 2],
        "trained_spans": [1, 3, 4, 5, 6, 7],
        "document_lengths": [3, 4],
        "tokens_keys": [b"a", b"b"],
    }
