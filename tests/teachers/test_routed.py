"""Several teachers, each of its own rows."""

import pytest
import torch
from torch.testing import assert_close

from llmkd.errors import InputError
from llmkd.teachers.in_process import InProcessTeacher
from llmkd.teachers.rollouts import RolloutTeacher
from llmkd.teachers.routed import RoutedTeacher

OF_ROW = torch.tensor([1, 0, 0, 1, 0])


@pytest.fixture
def teachers(tokenizer, tiny_llama):
    """Of different widths, in float64."""
    shapes = {"math": {"hidden_size": 32}, "code": {"hidden_size": 48, "seed": 1}}
    return {
        name: InProcessTeacher(tiny_llama(tokenizer, **shape).double(), vocab_size=len(tokenizer))
        for name, shape in shapes.items()
    }


@pytest.fixture
def routed(teachers):
    return RoutedTeacher("domain", teachers)


def own_rows(teachers):
    return zip(teachers.values(), (OF_ROW.eq(number)[:, None] for number in (0, 1)), strict=True)


def test_each_rollout_is_scored_by_its_own_teacher(routed, teachers, rollouts, one_by_one):
    some = rollouts(routes=OF_ROW)
    kept = some.completion_mask.bool()
    found = routed.token_logprobs(some, kept, temperature=0.8, batch_size=2)
    for teacher, rows in own_rows(teachers):
        expected = one_by_one(teacher.model, some, teacher.vocab_size, 0.8)
        assert_close(found.where(rows, 0), expected.where(rows, 0), atol=1e-9, rtol=1e-9)
    assert isinstance(routed, RolloutTeacher)


def test_heads_share_out_the_kept_tokens(routed, teachers, rollouts):
    some = rollouts(routes=OF_ROW)
    kept = some.completion_mask.bool()
    kept[1, 0] = False
    parts, heads = zip(*routed.heads(some, kept), strict=True)
    assert torch.equal(parts[0] ^ parts[1], kept)
    for part, head, (teacher, rows) in zip(parts, heads, own_rows(teachers), strict=True):
        assert torch.equal(part, kept & rows)
        ((_, alone),) = teacher.heads(some, part)
        assert torch.equal(head.hidden, alone.hidden)


def test_a_teacher_that_no_row_names_is_left_alone(routed, teachers, rollouts, monkeypatch):
    monkeypatch.delattr(teachers["math"], "model")
    some = rollouts(routes=torch.ones(5, dtype=torch.long))
    kept = some.completion_mask.bool()
    assert routed.token_logprobs(some, kept, temperature=1.0, batch_size=5).any()
    assert len(routed.heads(some, kept)) == 1


def test_an_end_is_foreign_where_the_rows_own_teacher_ends_otherwise(routed, teachers, rollouts):
    some = rollouts(routes=OF_ROW)
    teachers["math"].model.generation_config.eos_token_id = 2
    teachers["code"].model.generation_config.eos_token_id = 3
    expected = (some.completion_ids == 2) & OF_ROW.eq(1)[:, None]
    assert expected.any()
    assert torch.equal(routed.foreign_ends(some, [2]), expected)


def test_rows_are_routed_by_what_their_column_says(routed):
    rows = [{"domain": "code", "prompt": "a"}, {"domain": "math"}, {"domain": "math"}]
    assert routed.routes(rows) == [1, 0, 0]
    numbered = RoutedTeacher("level", {"1": routed, "2": routed})
    assert numbered.routes([{"level": 2}]) == [1]


def test_a_row_without_a_teacher_is_named(routed):
    with pytest.raises(
        InputError, match=r"row 2 has `domain` 'law'.* math, code; add one, or leave"
    ):
        routed.routes([{"domain": "math"}, {"domain": "law"}])
    for missing in ({}, {"domain": None}):
        with pytest.raises(
            InputError, match=r"^teacher\.column: row 1 has no `domain`.*math, code"
        ):
            routed.routes([missing])
