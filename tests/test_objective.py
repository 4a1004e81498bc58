"""The objective against a plain computation in float64, and its one law: splitting changes nothing."""

import pytest
import torch

from llmkd import schedules
from llmkd.losses import closed_form
from llmkd.losses.signals import LinearHead
from llmkd.losses.sparse import top_k_logits
from llmkd.losses.terms import BatchTerm, HeadTerm
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
    part_ids = batch.get("part_ids")
    of = lambda rows: None if part_ids is None else part_ids[rows]  # noqa: E731
    counts = sum(
        objective.count_positions(batch["target_ids"][rows], of(rows)) for rows in micro_batches
    )
    loss, metrics = torch.zeros((), dtype=torch.float64), {}
    for rows in micro_batches:
        kept = trained(batch["target_ids"][rows])
        output = objective(
            LinearHead(hidden[rows][kept], weight),
            LinearHead(batch["teacher"][rows][kept], batch["teacher_weight"]),
            batch["target_ids"][rows][kept],
            num_positions=counts,
            step=step,
            part_ids=None if part_ids is None else part_ids[rows][kept],
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
        "num_clamped/reverse_kl": torch.zeros(()),
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


# Terms of a part of the data.


def parts_objective():
    loss = lambda name: HeadTerm(name, closed_form.CROSS_ENTROPY)  # noqa: E731
    return Objective(
        [
            Term(loss("completion"), schedules.constant(1.0), part=0),
            Term(loss("rationale"), schedules.constant(0.3), part=1),
            Term(loss("all"), schedules.constant(0.2)),
        ],
        has_teacher=True,
    )


@pytest.fixture
def batch_of_parts(batch):
    # By rows, and of very different sizes.
    return {**batch, "part_ids": torch.tensor([0, 1, 0, 0, 0, 1])[:, None].expand(6, 5)}


def test_each_part_is_a_mean_over_its_own_tokens(batch_of_parts):
    loss, metrics, *_ = run(parts_objective(), batch_of_parts, 6)
    kept = trained(batch_of_parts["target_ids"])
    logits = (batch_of_parts["student"] @ batch_of_parts["weight"].T)[kept]
    labels, parts = batch_of_parts["target_ids"][kept], batch_of_parts["part_ids"][kept]
    mean = lambda mask: torch.nn.functional.cross_entropy(logits[mask], labels[mask]).item()  # noqa: E731
    completion, rationale, whole = mean(parts == 0), mean(parts == 1), mean(parts >= 0)
    assert loss.item() == pytest.approx(completion + 0.3 * rationale + 0.2 * whole, rel=1e-6)
    assert metrics["loss/completion"].item() == pytest.approx(completion, rel=1e-6)
    assert metrics["loss/rationale"].item() == pytest.approx(rationale, rel=1e-6)
    # What is measured beside the terms is a mean over all positions.
    z_t = (batch_of_parts["teacher"] @ batch_of_parts["teacher_weight"].T)[kept]
    teacher_nll = torch.nn.functional.cross_entropy(z_t, labels).item()
    assert metrics["teacher_nll"].item() == pytest.approx(teacher_nll, rel=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_a_micro_batch_may_have_one_part_alone(batch_of_parts, rows):
    whole, split = (run(parts_objective(), batch_of_parts, size) for size in (6, rows))
    for ours, theirs in zip(split[2:], whole[2:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
    for name, value in whole[1].items():
        torch.testing.assert_close(split[1][name], value, rtol=1e-6, atol=0)


def test_a_term_by_itself_has_the_denominator_of_its_part(batch_of_parts):
    objective = parts_objective()
    whole, *alone = (
        run(part, batch_of_parts, 6)
        for part in (objective, *(objective.only(index) for index in range(3)))
    )
    torch.testing.assert_close(sum(part[2] for part in alone), whole[2], rtol=1e-6, atol=1e-9)


def test_what_is_clamped_is_counted_for_the_terms_own_part(batch_of_parts):
    terms = [
        Term(HeadTerm(name, closed_form.REVERSE_KL), schedules.constant(1.0), part=part)
        for part, name in enumerate(("completion", "rationale"))
    ]
    # The teacher rules a token out wherever it reads a rationale, and nowhere else.
    kept = trained(batch_of_parts["target_ids"])
    parts, ids = batch_of_parts["part_ids"][kept], batch_of_parts["target_ids"][kept]
    teacher = (batch_of_parts["teacher"] @ batch_of_parts["teacher_weight"].T)[kept]
    teacher[parts == 1, 0] = -1e4
    objective = Objective(terms, has_teacher=True)
    output = objective(
        LinearHead(batch_of_parts["student"][kept], batch_of_parts["weight"]),
        LinearHead(teacher, torch.eye(VOCAB, dtype=torch.float64)),
        ids,
        num_positions=objective.count_positions(ids, parts),
        step=0,
        part_ids=parts,
    )
    assert output.metrics["num_clamped/completion"] == 0
    assert output.metrics["num_clamped/rationale"] > 0


def test_a_batch_term_compares_the_positions_of_its_part(batch_of_parts):
    of_part = BatchTerm("spread", batch_objective(100).terms[1].loss.loss, 100)
    objective = Objective([Term(of_part, schedules.constant(1.0), part=1)], has_teacher=False)
    loss, *_ = run(objective, batch_of_parts, 6)
    mask = trained(batch_of_parts["target_ids"]) & (batch_of_parts["part_ids"] == 1)
    z_s = (batch_of_parts["student"] @ batch_of_parts["weight"].T)[mask]
    z_t = (batch_of_parts["teacher"] @ batch_of_parts["teacher_weight"].T)[mask]
    assert loss.item() == pytest.approx(spread(z_s, z_t, z_s)[0].item(), rel=1e-5)


# Terms between the positions of a micro-batch.


def spread(student_logits, teacher_logits, target_ids):
    """Has no value per position: the squared distance of the two batches' means."""
    difference = student_logits.mean(0) - teacher_logits.mean(0)
    return difference.square().sum(), {"seen": torch.tensor(float(len(target_ids)))}


def batch_objective(max_rows: int) -> Objective:
    pointwise = make_objective().terms[0]
    of_batch = Term(BatchTerm("spread", spread, max_rows), schedules.linear(1.0, 0.0, 10))
    return Objective([pointwise, of_batch], has_teacher=True)


def test_a_batch_term_sees_all_positions_of_a_micro_batch(batch):
    loss, metrics, hidden_grad, weight_grad = run(batch_objective(100), batch, 6)
    kept = trained(batch["target_ids"])
    hidden, weight = (batch[name].clone().requires_grad_() for name in ("student", "weight"))
    z_s = (hidden @ weight.T)[kept]
    z_t = (batch["teacher"] @ batch["teacher_weight"].T)[kept]
    labels = batch["target_ids"][kept]
    ce = torch.nn.functional.cross_entropy(z_s, labels)
    value, _ = spread(z_s, z_t, labels)
    expected = 0.5 * ce + 0.7 * value
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert metrics["loss/spread"].item() == pytest.approx(value.item(), rel=1e-6)
    assert metrics["seen"] == len(labels)
    for ours, theirs in zip(
        (hidden_grad, weight_grad), torch.autograd.grad(expected, (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_micro_batches_of_a_batch_term_count_by_their_positions(batch):
    loss, metrics, *_ = run(batch_objective(100), batch, 2)
    z_s = batch["student"] @ batch["weight"].T
    z_t = batch["teacher"] @ batch["teacher_weight"].T
    mean = 0.0
    for rows in torch.arange(6).split(2):
        kept = trained(batch["target_ids"][rows])
        value, _ = spread(z_s[rows][kept], z_t[rows][kept], batch["target_ids"][rows][kept])
        mean += value * kept.sum() / trained(batch["target_ids"]).sum()
    assert metrics["loss/spread"].item() == pytest.approx(mean.item(), rel=1e-6)
    pointwise = 0.5 * metrics["loss/cross_entropy"]
    assert loss.item() == pytest.approx((pointwise + 0.7 * mean).item(), rel=1e-6)


def test_of_many_positions_a_batch_term_draws_some_anew_at_every_step(batch):
    drawn = []

    def record(student_logits, teacher_logits, target_ids):
        drawn.append(student_logits.detach())
        return student_logits.sum(), {}

    objective = Objective(
        [Term(BatchTerm("record", record, 4), schedules.constant(1.0))], has_teacher=False
    )
    for step in (3, 3, 4):
        run(objective, batch, 6, step=step)
    z_s = (batch["student"] @ batch["weight"].T)[trained(batch["target_ids"])]
    places = [[(z_s == row).all(-1).nonzero().item() for row in rows] for rows in drawn]
    assert places[0] == places[1] != places[2]
    assert len(set(places[0])) == 4
    assert places[0] == sorted(places[0])


def test_a_batch_term_of_no_positions_gives_zero_with_a_gradient(batch):
    batch["target_ids"][:] = -100
    objective = Objective(
        [Term(BatchTerm("sum", lambda s, t, ids: (s.sum(), {}), 4), schedules.constant(1.0))],
        has_teacher=False,
    )
    loss, _, hidden_grad, weight_grad = run(objective, batch, 6)
    assert loss == 0
    assert not hidden_grad.any()
    assert not weight_grad.any()


def test_a_clamp_of_the_teacher_is_counted(batch):
    batch["teacher_weight"] *= 1e4
    _, metrics, *_ = run(make_objective(), batch, 6)
    kept = trained(batch["target_ids"])
    log_p = torch.log_softmax((batch["teacher"] @ batch["teacher_weight"].T)[kept], -1)
    expected = (log_p < -1000).sum(-1).double().mean()
    assert expected > 1
    assert metrics["num_clamped/reverse_kl"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_stored_teacher_gives_the_diagnostics_that_it_can(batch):
    kept = trained(batch["target_ids"])
    ids = batch["target_ids"][kept]
    z_s = (batch["student"] @ batch["weight"].T)[kept]
    z_t = (batch["teacher"] @ batch["teacher_weight"].T)[kept]
    for stored_at, names in ((1.0, {"teacher_nll", "kl"}), (2.0, {"teacher_nll"})):
        objective = Objective(
            [
                Term(
                    HeadTerm("forward_kl", closed_form.FORWARD_KL, stored_at), schedules.constant(1)
                ),
                Term(HeadTerm("ce", closed_form.CROSS_ENTROPY), schedules.constant(1)),
            ],
            has_teacher=True,
        )
        output = objective(
            LinearHead(z_s.clone().requires_grad_(), torch.eye(VOCAB).double()),
            top_k_logits(z_t, ids, k=VOCAB, temperature=stored_at),
            ids,
            num_positions=objective.count_positions(ids),
            step=0,
        )
        assert output.metrics.keys() == {"loss/forward_kl", "loss/ce"} | names
        expected = torch.nn.functional.cross_entropy(z_t, ids)
        assert output.metrics["teacher_nll"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_batch_term_of_weight_zero_is_logged_and_has_no_gradient(batch):
    objective = batch_objective(100)
    _, metrics, hidden_grad, _ = run(objective, batch, 6, step=10)
    assert metrics["loss/spread"] > 0
    _, _, pointwise_grad, _ = run(objective.only(0), batch, 6, step=10)
    torch.testing.assert_close(hidden_grad, pointwise_grad, rtol=1e-6, atol=1e-12)
