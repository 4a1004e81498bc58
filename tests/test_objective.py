"""The objective against a plain computation in float64, and its one law: splitting changes nothing."""

import pytest
import torch

from llmkd import schedules
from llmkd.losses import closed_form
from llmkd.losses.signals import LinearHead
from llmkd.losses.terms import HeadTerm
from llmkd.objective import Objective, Term, trained

VOCAB, HIDDEN = 11, 6


def make_objective():
    return Objective(
        [
            Term(HeadTerm("cross_entropy", closed_form.CROSS_ENTROPY), schedules.constant(0.5)),
            Term(
                HeadTerm("forward_kl", closed_form.FORWARD_KL, temperature=2.0),
                schedules.linear(1.0, 0.0, 10),
                scale=4.0,
            ),
            Term(
                HeadTerm("reverse_kl", closed_form.REVERSE_KL),
                schedules.constant(0.2),
            ),
        ],
        has_teacher=True,
    )


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    target_ids = torch.randint(0, VOCAB, (6, 5), generator=generator)
    target_ids[0, 2:] = -100
    target_ids[3, :4] = -100
    target_ids[:, -1] = -100
    randn = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return {
        "target_ids": target_ids,
        "student": randn(6, 5, HIDDEN),
        "teacher": randn(6, 5, HIDDEN + 3),
        "weight": randn(VOCAB, HIDDEN),
        "teacher_weight": randn(VOCAB, HIDDEN + 3),
    }


def run(objective, batch, rows_per_micro_batch, step=3):
    hidden = batch["student"].clone().requires_grad_()
    weight = batch["weight"].clone().requires_grad_()
    micro_batches = torch.arange(6).split(rows_per_micro_batch)
    counts = sum(objective.count_positions(batch["target_ids"][rows]) for rows in micro_batches)
    loss, metrics = torch.zeros((), dtype=torch.float64), {}
    for rows in micro_batches:
        kept = trained(batch["target_ids"][rows])
        output = objective(
            LinearHead(hidden[rows][kept], weight),
            LinearHead(batch["teacher"][rows][kept], batch["teacher_weight"]),
            batch["target_ids"][rows][kept],
            num_positions=counts,
            step=step,
        )
        output.loss.backward()
        loss += output.loss.detach()
        for name, value in output.metrics.items():
            metrics[name] = metrics.get(name, 0) + value
    return loss, metrics, hidden.grad, weight.grad


def test_the_loss_is_the_weighted_sum_of_means_over_trained_positions(batch):
    loss, metrics, *_ = run(make_objective(), batch, 6)
    kept = trained(batch["target_ids"])
    z_s = (batch["student"] @ batch["weight"].T)[kept]
    z_t = (batch["teacher"] @ batch["teacher_weight"].T)[kept]
    categorical = lambda z: torch.distributions.Categorical(logits=z)  # noqa: E731
    kl = torch.distributions.kl_divergence
    labels = batch["target_ids"][kept]
    ce = torch.nn.functional.cross_entropy(z_s, labels)
    fkl_at_2 = kl(categorical(z_t / 2), categorical(z_s / 2)).mean()
    rkl = kl(categorical(z_s), categorical(z_t)).mean()
    # Step 3 of 10: the schedule stands at 0.7; temperature 2 squared is 4.
    assert loss.item() == pytest.approx(
        (0.5 * ce + 0.7 * 4 * fkl_at_2 + 0.2 * rkl).item(), rel=1e-6
    )
    expected = {
        "loss/cross_entropy": ce,
        "loss/forward_kl": fkl_at_2,
        "loss/reverse_kl": rkl,
        "teacher_nll": torch.nn.functional.cross_entropy(z_t, labels),
        "kl": kl(categorical(z_t), categorical(z_s)).mean(),
    }
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert metrics[name].item() == pytest.approx(value.item(), rel=1e-6), name


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_splitting_a_batch_changes_neither_loss_nor_gradient(batch, rows):
    whole, parts = run(make_objective(), batch, 6), run(make_objective(), batch, rows)
    torch.testing.assert_close(parts[0], whole[0], rtol=1e-6, atol=0)
    for ours, theirs in zip(parts[2:], whole[2:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
    for name, value in whole[1].items():
        torch.testing.assert_close(parts[1][name], value, rtol=1e-6, atol=0)


def test_a_batch_without_a_trained_position_gives_zero_with_a_gradient(batch):
    batch["target_ids"][:] = -100
    loss, metrics, hidden_grad, weight_grad = run(make_objective(), batch, 6)
    assert loss == 0
    assert not hidden_grad.any()
    assert not weight_grad.any()
    assert all(value == 0 for value in metrics.values())
