"""A teacher in this process reads rollouts."""

from contextlib import contextmanager

import pytest
import torch
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel

from llmkd.teachers import in_process
from llmkd.teachers.in_process import InProcessTeacher
from llmkd.teachers.rollouts import RolloutTeacher


@pytest.fixture
def teacher(tokenizer, tiny_llama):
    """In float64, of a vocabulary padded from 18 to 64."""
    model = tiny_llama(tokenizer, vocab_size=64).double()
    return InProcessTeacher(model, vocab_size=len(tokenizer))


def every_token(rollouts):
    return rollouts.completion_mask.bool()


@pytest.mark.parametrize(("batch_size", "temperature"), [(1, 1.0), (2, 0.7), (5, 2.0)])
def test_each_rollout_is_scored_as_if_it_were_alone(
    teacher, rollouts, one_by_one, batch_size, temperature
):
    some = rollouts()
    kept = every_token(some)
    kept[0], kept[1, 2] = False, False
    asked = {"temperature": temperature, "batch_size": batch_size}
    found = teacher.token_logprobs(some, kept, **asked)
    expected = one_by_one(teacher.model, some, teacher.vocab_size, temperature)
    assert_close(found, expected.where(kept, 0), atol=1e-9, rtol=1e-9)
    assert isinstance(teacher, RolloutTeacher)


def test_learned_positions_begin_at_a_prompts_first_token_however_it_is_padded(
    tokenizer, rollouts, one_by_one
):
    shape = {"vocab_size": len(tokenizer), "n_positions": 32, "n_embd": 16, "n_layer": 1}
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**shape, n_head=2, initializer_range=0.5)).double().eval()
    teacher, some = InProcessTeacher(model, vocab_size=len(tokenizer)), rollouts()
    found = teacher.token_logprobs(some, every_token(some), temperature=1.0, batch_size=5)
    assert_close(found, one_by_one(model, some, len(tokenizer)), atol=1e-9, rtol=1e-9)


def test_heads_are_those_of_the_kept_positions_in_their_order(teacher, rollouts, one_by_one):
    some = rollouts()
    kept = every_token(some)
    kept[2], kept[4, :3] = False, False
    ((part, head),) = teacher.heads(some, kept)
    assert torch.equal(part, kept)
    found = head.logits().log_softmax(-1).gather(-1, some.completion_ids[kept][:, None])[:, 0]
    expected = one_by_one(teacher.model, some, teacher.vocab_size)[kept]
    assert_close(found, expected, atol=1e-9, rtol=1e-9)


def test_a_token_that_it_has_no_embedding_for_is_ruled_out(tokenizer, tiny_llama, rollouts):
    teacher = InProcessTeacher(tiny_llama(tokenizer), vocab_size=len(tokenizer))
    asked = {"temperature": 1.0, "batch_size": 2}
    plain, padded = (rollouts([[4, 5]], [[6, last, 7]]) for last in (8, len(tokenizer) + 2))
    expected = teacher.token_logprobs(plain, every_token(plain), **asked)
    found = teacher.token_logprobs(padded, every_token(padded), **asked)
    assert found[0, 1] == -torch.inf
    assert_close(found[0, 0], expected[0, 0])
    assert found[0, 2].isfinite()


def test_rollouts_without_a_kept_token_are_not_read(teacher, rollouts):
    read = []
    hook = lambda module, args, kwargs: read.append(kwargs["input_ids"])  # noqa: E731
    teacher.model.register_forward_pre_hook(hook, with_kwargs=True)
    some = rollouts()
    kept = every_token(some)
    nothing = teacher.token_logprobs(some, torch.zeros_like(kept), temperature=1.0, batch_size=2)
    assert not nothing.any()
    assert not teacher.heads(some, torch.zeros_like(kept))
    assert not read
    kept[3] = False
    teacher.token_logprobs(some, kept, temperature=1.0, batch_size=2)
    # The longest first, with no padding beyond the longest of its batch: 8 and 6 tokens, 5 and 4.
    assert [ids.shape for ids in read] == [(2, 8), (2, 5)]


def test_all_logits_never_stand_in_memory_together(tokenizer, tiny_llama, rollouts, largest_tensor):
    shape = {"vocab_size": 20_000, "max_position_embeddings": 512, "hidden_size": 8}
    model = tiny_llama(tokenizer, num_attention_heads=1, num_key_value_heads=1, **shape)
    some = rollouts([[1]] * 4, [list(range(500))] * 4)
    teacher = InProcessTeacher(model, vocab_size=20_000)
    with largest_tensor as largest:
        teacher.token_logprobs(some, every_token(some), temperature=1.0, batch_size=4)
    assert 0 < largest.num_bytes <= 4 * 2000 * 20_000 / 2


@pytest.fixture
def moves(teacher, monkeypatch):
    """Has an offloaded teacher believe that its weights are elsewhere; notes each time they come."""
    teacher.is_offloaded = True
    places, moves, lent = [torch.device("meta")], [], in_process.lent

    @contextmanager
    def noted(model, device):
        moves.append(device)
        places.append(device)
        with lent(model, device):
            yield
        places.pop()

    monkeypatch.setattr(in_process, "lent", noted)
    monkeypatch.setattr(type(teacher.model), "device", property(lambda model: places[-1]))
    return moves


def test_offloaded_weights_come_once_for_all_rollouts_and_are_not_moved_back(
    teacher, moves, rollouts, one_by_one
):
    weights = [*teacher.model.parameters(), *teacher.model.buffers()]
    at_home = [weight.data_ptr() for weight in weights]
    some = rollouts()
    kept = every_token(some)
    found = teacher.token_logprobs(some, kept, temperature=1.0, batch_size=1)
    assert len(moves) == 1
    assert [weight.data_ptr() for weight in weights] == at_home
    expected = one_by_one(teacher.model, some, teacher.vocab_size)
    assert_close(found, expected, atol=1e-9, rtol=1e-9)
    teacher.token_logprobs(some, kept & False, temperature=1.0, batch_size=1)
    assert len(moves) == 1


def test_a_head_outlives_the_weights_that_it_came_from(teacher, moves, rollouts):
    some = rollouts()
    ((_, head),) = teacher.heads(some, every_token(some))
    own = teacher.model.lm_head.weight[: teacher.vocab_size]
    assert len(moves) == 1
    assert head.weight.data_ptr() != own.data_ptr()
    assert torch.equal(head.weight, own)


def test_inside_all_weights_are_copies_and_a_failure_gives_them_back(teacher):
    weights = [*teacher.model.parameters(), *teacher.model.buffers()]
    at_home = [weight.data_ptr() for weight in weights]
    inside = set()

    def fail():
        with in_process.lent(teacher.model, torch.device("cpu")):
            inside.update(weight.data_ptr() for weight in weights)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(inside) == len(weights)
    assert not inside & {*at_home}
    assert [weight.data_ptr() for weight in weights] == at_home


def test_ends_of_the_student_that_do_not_end_its_texts_are_foreign(teacher, rollouts):
    some = rollouts()
    is_end = {end: some.completion_ids == end for end in (2, 3)}
    for own, expected in ((None, is_end[2] & ~is_end[2]), ([2], is_end[3]), (3, is_end[2])):
        teacher.model.generation_config.eos_token_id = own
        assert torch.equal(teacher.foreign_ends(some, [2, 3]), expected)
