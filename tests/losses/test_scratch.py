import torch

from llmkd.losses.scratch import Scratch


def test_what_is_handed_out_is_apart_until_a_restart_takes_it_back():
    scratch, example = Scratch(), torch.zeros(3, 5)
    first, second = scratch.like(example).fill_(1), scratch.like(example).fill_(2)
    assert first.shape == second.shape == (3, 5)
    assert (first == 1).all()
    scratch.restart()
    scratch.like(example).fill_(3)
    assert (first == 3).all()
    assert (second == 2).all()


def test_kept_memory_serves_any_smaller_shape_and_any_type():
    scratch = Scratch()
    scratch.like(torch.zeros(4, 6))
    (kept,) = scratch.kept
    for shape, dtype in (
        ((2, 3), torch.float64),
        ((4, 6), torch.bfloat16),
        ((0, 6), torch.float32),
    ):
        scratch.restart()
        given = scratch.like(torch.zeros(shape), dtype)
        assert given.shape == shape
        assert given.dtype == dtype
        assert scratch.kept[0] is kept
    scratch.restart()
    assert scratch.like(torch.zeros(4, 7)).shape == (4, 7)
    assert len(scratch.kept[0]) == 4 * 4 * 7


def test_without_large_pages_the_memory_is_of_small_ones(monkeypatch):
    monkeypatch.delattr("mmap.MADV_HUGEPAGE", raising=False)
    assert Scratch().like(torch.zeros(3)).fill_(1).tolist() == [1, 1, 1]
