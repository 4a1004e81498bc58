import torch
from torch.testing import assert_close

from llmkd.losses.signals import LinearHead
from llmkd.teachers.token_logprobs import token_logprobs


def head(num_rows, *, hidden=8, vocab=11, dtype=torch.float64, **parts):
    generator = torch.Generator().manual_seed(0)
    return LinearHead(
        torch.randn(num_rows, hidden, generator=generator, dtype=dtype),
        torch.randn(vocab, hidden, generator=generator, dtype=dtype),
        **parts,
    )


def test_they_are_those_of_dense_logits_at_any_temperature():
    model = head(6, bias=torch.arange(11).double(), scale=0.5, soft_cap=3.0)
    ids = torch.tensor([0, 10, 3, 3, 7, 1])
    for temperature in (1.0, 0.7, 2.0):
        expected = (model.logits() / temperature).log_softmax(-1).gather(-1, ids[:, None])[:, 0]
        found = token_logprobs(model, ids, temperature=temperature)
        assert_close(found, expected, atol=1e-9, rtol=1e-9)


def test_a_token_beyond_the_vocabulary_is_ruled_out_and_disturbs_no_other():
    model, ids = head(3), torch.tensor([2, 11, 5])
    found = token_logprobs(model, ids)
    assert found[1] == -torch.inf
    assert_close(found[[0, 2]], model.logits().log_softmax(-1)[[0, 2], ids[[0, 2]]])


def test_the_logits_of_all_positions_never_stand_in_memory_together(largest_tensor):
    model = head(2000, vocab=20_000, dtype=torch.float32)
    ids = torch.arange(2000)
    with largest_tensor as largest:
        token_logprobs(model, ids)
    assert 0 < largest.num_bytes <= 4 * 2000 * 20_000 / 2
