import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmkd.losses import closed_form as c
from llmkd.losses import divergences as d
from llmkd.losses.linear_head import divergence_from_hidden
from llmkd.losses.signals import LinearHead, SampledLogits, SparseLogits, TopKLogits
from llmkd.losses.sparse import sampled_logits, top_k_logits
from llmkd.losses.terms import Divergence, HeadTerm

N, V, H = 5, 13, 3

COARSE = {
    "forward_kl": (c.FORWARD_KL, d.forward_kl),
    "reverse_kl": (c.REVERSE_KL, d.reverse_kl),
    "jsd": (c.jsd(0.5), d.jsd),
    "skew_forward_kl": (c.skew_forward_kl(0.1), d.skew_forward_kl),
    "skew_reverse_kl": (c.skew_reverse_kl(0.1), d.skew_reverse_kl),
    "total_variation": (c.TOTAL_VARIATION, d.total_variation),
}
every_coarse = pytest.mark.parametrize(("divergence", "pure"), COARSE.values(), ids=COARSE)
ids = torch.tensor([0, 3, -100, 12, 7])


def normal(*shape: int, seed: int, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def head_of(logits: Tensor) -> LinearHead:
    """A head whose hidden states are its logits."""
    weight = torch.eye(logits.shape[-1], dtype=logits.dtype)
    return LinearHead(logits.clone().requires_grad_(), weight)


def value_and_gradient(
    divergence: Divergence,
    student: Tensor,
    teacher: LinearHead | SparseLogits,
    tau: float = 1.0,
    targets: Tensor = ids,
) -> tuple[Tensor, Tensor]:
    head = head_of(student)
    output = divergence_from_hidden(
        head, teacher, targets, [HeadTerm("it", divergence, tau)], torch.ones(1, len(student))
    )
    (gradient,) = torch.autograd.grad(output.loss, head.hidden)
    return output.values[0], gradient


def assert_same(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


# Top k and a bucket for the rest.


def merged(logits: Tensor, token_ids: Tensor, tau: float) -> Tensor:
    """Log-probabilities of the chosen tokens and of all others together, by a plain sum."""
    p = torch.softmax(logits / tau, -1)
    kept = p.gather(-1, token_ids)
    is_other = torch.ones_like(p).scatter(-1, token_ids, 0)
    return torch.cat([kept, (p * is_other).sum(-1, keepdim=True)], -1).log()


@every_coarse
@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_it_is_the_divergence_of_the_merged_outcomes(divergence, pure, tau):
    student, teacher = normal(N, V, seed=0).requires_grad_(), normal(N, V, seed=1)
    top = top_k_logits(teacher, ids, k=4, temperature=tau)
    outcomes = merged(student, top.token_ids, tau), merged(teacher, top.token_ids, tau)
    expected = pure(*outcomes)
    (gradient,) = torch.autograd.grad(expected.sum(), student)
    assert_same(
        value_and_gradient(divergence, student.detach(), top, tau), (expected.detach(), gradient)
    )


@every_coarse
def test_the_whole_vocabulary_is_the_dense_divergence(divergence, pure):
    student, teacher = normal(N, V, seed=0), normal(N, V, seed=1)
    top = top_k_logits(teacher, ids, k=V)
    assert (top.tail_log_prob == -math.inf).all()
    assert_same(
        value_and_gradient(divergence, student, top),
        value_and_gradient(divergence, student, head_of(teacher)),
    )


@every_coarse
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.1, 1.0, 5.0, 30.0]))
def test_it_is_a_lower_bound_that_grows_with_k(divergence, pure, seed, scale):
    student, teacher = normal(N, V, seed=seed, scale=scale), normal(N, V, seed=seed + 1)
    values = [
        value_and_gradient(divergence, student, top_k_logits(teacher, ids, k=k))[0]
        for k in (1, 3, 6, V - 1, V)
    ]
    for smaller, larger in itertools.pairwise(values):
        assert (smaller <= larger + 1e-9).all()
    assert (values[-1] <= pure(student, teacher) + 1e-9).all()
    assert (values[0] >= -1e-12).all()


@every_coarse
@pytest.mark.parametrize("k", [3, 5])
def test_a_tail_without_mass_gives_no_nan(divergence, pure, k):
    teacher = normal(N, V, seed=1)
    teacher[:, 3:] = -math.inf
    top = top_k_logits(teacher, ids, k=k)
    for scale in (1.0, 300.0):
        value, gradient = value_and_gradient(divergence, normal(N, V, seed=0, scale=scale), top)
        assert value.isfinite().all()
        assert gradient.isfinite().all()


def test_of_a_teacher_without_a_tail_nothing_is_lost():
    student, teacher = normal(N, V, seed=0).requires_grad_(), normal(N, V, seed=1)
    teacher[:, 3:] = -math.inf
    expected = d.forward_kl(student, teacher)
    (gradient,) = torch.autograd.grad(expected.sum(), student)
    top = top_k_logits(teacher, ids, k=3)
    assert_same(
        value_and_gradient(c.FORWARD_KL, student.detach(), top), (expected.detach(), gradient)
    )


def test_a_student_without_a_tail_of_its_own_gets_a_finite_gradient_towards_one():
    # In float32 the student's tail is exp(-300), which is 0; its logarithm still is not -inf.
    student = torch.zeros(1, V)
    student[0, 2:] = -300
    teacher = torch.tensor([[1.0, 1.0, *[0.0] * 11]])
    label = torch.tensor([0])
    head = LinearHead(student.requires_grad_(), torch.eye(V))
    output = divergence_from_hidden(
        head,
        top_k_logits(teacher, label, k=2),
        label,
        [HeadTerm("it", c.FORWARD_KL)],
        torch.ones(1, 1),
    )
    # Two tokens of e / (2 e + 11) against 1/2, and 11 / (2 e + 11) against 11 exp(-300) / 2.
    kept, tail = math.e / (2 * math.e + 11), 11 / (2 * math.e + 11)
    expected = 2 * kept * math.log(kept * 2) + tail * (math.log(tail * 2 / 11) + 300)
    assert output.values.item() == pytest.approx(expected, rel=1e-6)
    output.loss.backward()
    # The 11 tokens share what the bucket is pulled up by.
    torch.testing.assert_close(student.grad[0, 2:], torch.full((11,), -tail / 11))


def naive_forward_kl(student: Tensor, top: TopKLogits, *, is_renormalised: bool) -> Tensor:
    """What cutting off the tail amounts to: the mass that is left, as if it were all."""
    p = top.log_probs.exp()
    if is_renormalised:
        p = p / p.sum(-1, keepdim=True)
    return (p * (p.log() - d.logprobs(student).gather(-1, top.token_ids))).sum(-1)


@pytest.mark.parametrize("is_renormalised", [False, True])
def test_a_tail_that_is_cut_off_biases_a_student_that_is_right_and_a_bucket_does_not(
    is_renormalised,
):
    teacher = normal(N, V, seed=1)
    top = top_k_logits(teacher, ids, k=4)
    student = teacher.clone().requires_grad_()
    naive = naive_forward_kl(student, top, is_renormalised=is_renormalised)
    (gradient,) = torch.autograd.grad(naive.sum(), student)
    tail = top.tail_log_prob.exp()
    # Renormalised, the target gives nothing to the tail, so its whole mass is pushed away; cut off,
    # what the student gives to the kept tokens is a tail short of balancing it.
    expected = tail if is_renormalised else tail * (1 - tail)
    pushed = gradient.scatter(-1, top.token_ids, 0).sum(-1)
    torch.testing.assert_close(pushed, expected)
    assert (pushed > 0.01).any()
    _, ours = value_and_gradient(c.FORWARD_KL, teacher, top)
    torch.testing.assert_close(ours, torch.zeros_like(ours), rtol=0, atol=1e-12)


def test_the_students_tail_keeps_the_shape_it_has_and_gets_the_mass_it_lacks():
    # By hand: p = (1/2; rest 1/2) against q = (3/5; 1/5, 1/5): d/dz = q - p for the kept token, 1/10,
    # and the bucket's 2/5 - 1/2 = -1/10, in halves.
    student = torch.tensor([[3.0, 1.0, 1.0]], dtype=torch.float64).log()
    top = top_k_logits(torch.tensor([[2.0, 1.0, 1.0]]).double().log(), torch.tensor([0]), k=1)
    value, gradient = value_and_gradient(c.FORWARD_KL, student, top, targets=torch.tensor([0]))
    expected = 0.5 * math.log(0.5 / 0.6) + 0.5 * math.log(0.5 / 0.4)
    assert value.item() == pytest.approx(expected)
    torch.testing.assert_close(gradient, torch.tensor([[0.1, -0.05, -0.05]]).double())


# Random samples.


def samples_of(token_ids: Tensor, log_p: Tensor) -> SampledLogits:
    num_samples = token_ids.shape[-1]
    weights = torch.full(token_ids.shape, 1 / num_samples, dtype=log_p.dtype)
    return SampledLogits(token_ids, weights, entropy_of(log_p), torch.zeros(len(log_p)))


def entropy_of(log_p: Tensor) -> Tensor:
    return torch.distributions.Categorical(logits=log_p).entropy()


@pytest.mark.parametrize("num_samples", [1, 2])
def test_value_and_gradient_are_right_on_average_over_all_draws(num_samples):
    vocab_size = 5
    student, teacher = normal(1, vocab_size, seed=0), normal(1, vocab_size, seed=1)
    log_p, targets = d.logprobs(teacher), torch.tensor([0])
    mean_value, mean_gradient = torch.zeros(1).double(), torch.zeros(1, vocab_size).double()
    for draw in torch.cartesian_prod(*[torch.arange(vocab_size)] * num_samples).view(
        -1, 1, num_samples
    ):
        chance = log_p.gather(-1, draw).sum().exp()
        value, gradient = value_and_gradient(
            c.FORWARD_KL, student, samples_of(draw, log_p), targets=targets
        )
        mean_value += chance * value
        mean_gradient += chance * gradient
    full = value_and_gradient(c.FORWARD_KL, student, head_of(teacher), targets=targets)
    assert_same((mean_value, mean_gradient), full)


def test_another_proposal_is_right_on_average_when_its_weights_say_so():
    # Drawn from r, weighted by p / r: the weights then no longer add up to 1 in every draw.
    student, teacher = normal(1, V, seed=0), normal(1, V, seed=1)
    log_p, log_r = d.logprobs(teacher), d.logprobs(teacher, temperature=1.2)
    mean = torch.zeros(1, V).double()
    for token in range(V):
        draw = torch.tensor([[token]])
        weights = (log_p - log_r).exp().gather(-1, draw)
        drawn = SampledLogits(draw, weights, entropy_of(log_p), torch.zeros(1))
        _, gradient = value_and_gradient(c.FORWARD_KL, student, drawn, targets=torch.tensor([0]))
        mean += log_r[0, token].exp() * gradient
    expected = value_and_gradient(
        c.FORWARD_KL, student, head_of(teacher), targets=torch.tensor([0])
    )[1]
    torch.testing.assert_close(mean, expected, rtol=1e-9, atol=1e-9)


def test_draws_follow_the_teacher_at_its_temperature():
    num_samples = 40_000
    teacher = normal(2, V, seed=1)
    drawn = sampled_logits(
        teacher,
        torch.tensor([0, 1]),
        num_samples=num_samples,
        temperature=2.0,
        generator=torch.Generator().manual_seed(0),
    )
    p = torch.softmax(teacher / 2, -1)
    shares = torch.zeros_like(p).scatter_add(-1, drawn.token_ids, drawn.weights)
    # Five standard deviations of a share.
    assert ((shares - p).abs() <= 5 * (p * (1 - p) / num_samples).sqrt()).all()
    torch.testing.assert_close(drawn.entropy, entropy_of(p.log()))


# Both.


@pytest.mark.parametrize("kind", ["top_k", "sampled"])
def test_the_labels_loss_is_exact_at_any_temperature(kind):
    teacher = normal(N, V, seed=1)
    if kind == "top_k":
        sparse = top_k_logits(teacher, ids, k=1, temperature=2.0)
    else:
        sparse = sampled_logits(teacher, ids, num_samples=1, temperature=2.0)
    terms = [HeadTerm("ce", c.CROSS_ENTROPY)]
    output = divergence_from_hidden(
        head_of(normal(N, V, seed=0)),
        sparse,
        ids,
        terms,
        torch.ones(1, N),
        diagnostics=[HeadTerm("teacher_nll", c.TEACHER_NLL)],
    )
    torch.testing.assert_close(output.diagnostics[0], d.teacher_nll(teacher, ids))
    torch.testing.assert_close(
        output.values[0], d.cross_entropy(normal(N, V, seed=0), ids), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("chunk_size", [1, 2, None])
def test_chunks_and_a_head_change_nothing(chunk_size):
    hidden, weight = normal(N, H, seed=3).requires_grad_(), normal(V, H, seed=4).requires_grad_()
    top = top_k_logits(normal(N, V, seed=1), ids, k=4)
    output = divergence_from_hidden(
        LinearHead(hidden, weight),
        top,
        ids,
        [HeadTerm("kl", c.FORWARD_KL), HeadTerm("ce", c.CROSS_ENTROPY)],
        torch.tensor([[0.5], [2.0]]).expand(2, N),
        chunk_size=chunk_size,
    )
    logits = hidden @ weight.T
    expected = d.forward_kl(
        merged(logits, top.token_ids, 1.0),
        torch.cat([top.log_probs, top.tail_log_prob[:, None]], 1),
    )
    loss = (0.5 * expected + 2 * d.cross_entropy(logits, ids)).sum()
    ours = torch.autograd.grad(output.loss, (hidden, weight))
    assert_same(ours, torch.autograd.grad(loss, (hidden, weight)))


def test_what_a_sparse_teacher_cannot_give_is_refused():
    student, teacher = normal(N, V, seed=0), normal(N, V, seed=1)
    top = top_k_logits(teacher, ids, k=2, temperature=2.0)
    drawn = sampled_logits(teacher, ids, num_samples=2)
    with pytest.raises(ValueError, match=r"it cannot be taken of top-k log-probabilities"):
        value_and_gradient(c.TODI, student, top)
    with pytest.raises(ValueError, match=r"it cannot be taken of random samples.*forward_kl"):
        value_and_gradient(c.REVERSE_KL, student, drawn)
    with pytest.raises(ValueError, match=r"temperature 1.0.*stored at 2.0"):
        value_and_gradient(c.FORWARD_KL, student, top)
    with pytest.raises(ValueError, match="the teacher 4"):
        value_and_gradient(c.FORWARD_KL, student, top_k_logits(teacher[:4], ids[:4], k=2))
