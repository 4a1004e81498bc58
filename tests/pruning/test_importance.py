"""Importance is what its equations say, whatever the batches and the padding."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from llmkd.pruning.choose import layers_to_remove, most_important
from llmkd.pruning.importance import Importances, angles_of, measure_importances
from llmkd.recipe.pruning import DepthPruning

FIELDS = ("angular_distances", "block_influence", "channels", "head_groups")


def rows_of(batch):
    """Each text by itself, without padding."""
    pairs = zip(batch["input_ids"], batch["attention_mask"], strict=True)
    return [ids[mask.bool()][None] for ids, mask in pairs]


def states_of(model, ids):
    """The inputs of all layers and the last output, of one text: [L + 1, T, H]."""
    found = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0][0]))
        for layer in [*model.model.layers, model.model.norm]
    ]
    model(ids)
    for hook in hooks:
        hook.remove()
    return torch.stack(found).double()


def inputs_of(model, ids, path):
    """What goes into a linear layer of each layer, for one text: [L, T, N]."""
    found = []
    hooks = [
        layer.get_submodule(path).register_forward_pre_hook(
            lambda _, inputs: found.append(inputs[0][0])
        )
        for layer in model.model.layers
    ]
    model(ids)
    for hook in hooks:
        hook.remove()
    return torch.stack(found).double()


def test_angular_distance_is_that_of_the_last_tokens_states(model, batch):
    found = measure_importances(model, [batch])
    states = [states_of(model, ids)[:, -1] for ids in rows_of(batch)]
    for first in range(6):
        for second in range(first + 1, 6):
            cosines = [F.cosine_similarity(h[first], h[second], dim=0) for h in states]
            expected = sum(math.acos(c) / math.pi for c in cosines) / 3
            assert float(found.angular_distances[first, second]) == pytest.approx(
                expected, abs=1e-5
            )
    assert found.of_blocks(2) == [float(found.angular_distances[i, i + 2]) for i in range(4)]


def test_block_influence_leaves_out_each_texts_first_token(model, batch):
    found = measure_importances(model, [batch])
    states = [states_of(model, ids)[:, 1:] for ids in rows_of(batch)]
    cosines = torch.cat([F.cosine_similarity(h[:-1], h[1:], dim=-1) for h in states], dim=1)
    assert cosines.shape == (5, 8 + 3 + 6)
    torch.testing.assert_close(found.block_influence, (1 - cosines.mean(1)).float())


def test_channels_and_heads_have_the_mean_magnitude_of_what_they_give(model, batch):
    found = measure_importances(model, [batch])
    rows = rows_of(batch)
    channels = torch.cat([inputs_of(model, ids, "mlp.down_proj") for ids in rows], dim=1)
    torch.testing.assert_close(found.channels, channels.abs().mean(1).float())
    heads = torch.cat([inputs_of(model, ids, "self_attn.o_proj") for ids in rows], dim=1)
    norms = heads.unflatten(-1, (8, -1)).square().sum(-1).sqrt().mean(1)
    # Query heads 2 g and 2 g + 1 read key-value head g.
    pairs = (norms[:, 0::2] + norms[:, 1::2]) / 2
    torch.testing.assert_close(found.head_groups, pairs.float())
    assert (found.num_examples, found.num_tokens) == (3, 20)


def padded_left(batch):
    order = batch["attention_mask"].argsort(dim=1, stable=True)
    return {name: tensor.gather(1, order) for name, tensor in batch.items()}


def one_by_one(batch):
    for ids in rows_of(batch):
        yield {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("batches", [lambda b: [padded_left(b)], one_by_one], ids=["left", "alone"])
def test_neither_padding_nor_batches_change_it(model, batch, batches):
    whole, other = measure_importances(model, [batch]), measure_importances(model, batches(batch))
    for name in FIELDS:
        torch.testing.assert_close(getattr(other, name), getattr(whole, name), atol=2e-6, rtol=1e-4)
    assert (other.num_examples, other.num_tokens) == (whole.num_examples, whole.num_tokens)


def test_it_is_measured_in_float32_of_a_bfloat16_model(build, batch):
    model = build("llama")
    expected = measure_importances(model, [batch])
    found = measure_importances(model.to(torch.bfloat16), [batch])
    for name in FIELDS:
        assert getattr(found, name).dtype == torch.float32
        # bfloat16 has 8 bits, and its errors add up over five layers.
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), atol=2e-2, rtol=6e-2
        )


def test_cosines_of_bfloat16_states_are_not_rounded_to_bfloat16(build):
    model = build("llama").to(torch.bfloat16)
    ids = torch.tensor([[5, 9, 21, 33, 7, 3]])
    found = measure_importances(model, [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}])
    states = states_of(model, ids)[:, 1:]
    expected = 1 - F.cosine_similarity(states[:-1], states[1:], dim=-1).mean(1)
    torch.testing.assert_close(found.block_influence, expected.float(), atol=1e-6, rtol=1e-5)


def test_no_hook_is_left_on_the_model(model, batch):
    measure_importances(model, [batch])
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_a_layer_that_does_nothing_has_no_influence(build, batch):
    model = build("mistral")
    for linear in (model.model.layers[2].self_attn.o_proj, model.model.layers[2].mlp.down_proj):
        linear.weight.zero_()
    found = measure_importances(model, [batch])
    assert float(found.block_influence[2]) == pytest.approx(0, abs=1e-6)
    depth = {"remove_layers": 1}
    assert layers_to_remove(DepthPruning(**depth), found) == [2]
    assert layers_to_remove(DepthPruning(**depth, importance="block_influence"), found) == [2]


def test_angles_of_states_by_hand():
    # Along x, along x and y (45 degrees: a quarter of pi), along y (a half), against x (pi).
    states = torch.tensor([[[2.0, 0.0], [3.0, 3.0], [0.0, 0.5], [-1.0, 0.0]]])
    (angles,) = angles_of(states)
    assert angles[0].tolist() == pytest.approx([0, 0.25, 0.5, 1], abs=1e-3)
    # Clamped: arccos(1 - 1e-6) / pi = sqrt(2e-6) / pi = 0.00045.
    assert float(angles[0, 0]) == pytest.approx(0.00045, abs=1e-5)
    assert angles_of(states * 1e-8).isfinite().all()


def importances(distances, influence):
    size = len(influence)
    return Importances(
        torch.tensor(distances), torch.tensor(influence), torch.zeros(size, 1), torch.zeros(size, 1), 1, 2
    )  # fmt: skip


def matrix(num_layers, **pairs):
    """Distances of 1, but for those given as `from_to`."""
    found = torch.ones(num_layers + 1, num_layers + 1)
    for name, value in pairs.items():
        first, second = map(int, name[1:].split("_"))
        found[first, second] = found[second, first] = value
    return found.tolist()


def test_the_nearest_block_that_is_not_protected_goes():
    # Of two layers in a row: 0-2 is nearest, then 4-6 of six layers, then 2-4.
    found = importances(matrix(6, d0_2=0.1, d4_6=0.2, d2_4=0.3), [1.0] * 6)
    assert layers_to_remove(DepthPruning(remove_layers=2), found) == [2, 3]
    assert layers_to_remove(DepthPruning(remove_layers=2, protect_first=0), found) == [0, 1]
    assert layers_to_remove(DepthPruning(remove_layers=2, protect_last=0), found) == [4, 5]


def test_the_least_influential_layers_go_wherever_they_are():
    found = importances(matrix(6), [0.1, 0.5, 0.2, 0.9, 0.3, 0.0])
    by = {"importance": "block_influence"}
    assert layers_to_remove(DepthPruning(remove_layers=2, **by), found) == [2, 4]
    free = {"protect_first": 0, "protect_last": 0}
    assert layers_to_remove(DepthPruning(remove_layers=2, **by, **free), found) == [0, 5]


def test_layers_that_are_named_go_whatever_they_do():
    assert layers_to_remove(DepthPruning(layers=[4, 0]), None) == [0, 4]


@given(st.data())
def test_what_stays_is_larger_than_what_goes(data):
    size = data.draw(st.integers(2, 12))
    values = data.draw(st.lists(st.integers(0, 5), min_size=size, max_size=size))
    num_kept = data.draw(st.integers(1, size))
    (kept,) = most_important(torch.tensor([values], dtype=torch.float32), num_kept).tolist()
    gone = set(range(size)) - set(kept)
    assert kept == sorted(set(kept))
    assert len(kept) == num_kept
    assert min(values[i] for i in kept) >= max((values[i] for i in gone), default=0)
    # Of equal ones the first stay.
    assert all(i < j for i in kept for j in gone if values[i] == values[j])
