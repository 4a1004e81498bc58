"""Forward and reverse KL in one, blended by weights that are read off both models."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from llmkd.losses.divergences.distributions import (
    Logits,
    Logprobs,
    PerPosition,
    TeacherLogits,
    both_logprobs,
    check_between_0_and_1,
    floored,
    kl,
    kl_of_tokens,
)


def adaptive_kl(
    student_logits: Logits,
    teacher_logits: TeacherLogits,
    *,
    temperature: float = 1.0,
    head_mass: float = 0.5,
) -> PerPosition:
    r"""Adaptive KL (AKL), in nats: forward KL as far as the student is off in the teacher's head.

    .. math:: \frac{g_h}{g_h + g_t} KL(p \| q) + \frac{g_t}{g_h + g_t} KL(q \| p), \quad
        g = \sum |p_v - q_v|

    g is summed over the head and over the tail. From the teacher's likeliest token on, the head is
    what fits into `head_mass`; the token that exceeds it is the first of the tail, and tokens as
    likely as that one go with it. The likeliest token, and what ties with it, is always in the head.
    The two weights are detached. Where p = q both gaps are 0, and so is the divergence.

    Args:
        student_logits: :math:`z^S`; gradients flow through it. Upcast to float32 here.
        teacher_logits: :math:`z^T`; detached here.
        temperature: :math:`\tau > 0`, divides both logits. 1 leaves them as they are.
        head_mass: The teacher's probability that the head may hold, in (0, 1). The paper's mu.

    Returns:
        The divergence at each position, between forward and reverse KL, in float32 (float64 stays
        float64). Reverse KL has its floor, as in `reverse_kl`.

    Raises:
        ValueError: The vocabularies differ, or temperature or head mass is out of range.

    References:
        Wu et al. 2024, "Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large
        Language Models", https://arxiv.org/abs/2404.02657, section 4. Its code sorts the vocabulary
        and splits ties in the sort's order; here a position's value depends on no order.

    Example:
        >>> z = torch.tensor([[2.0, 0.0, -2.0]])
        >>> adaptive_kl(z, z).item()
        0.0
    """
    log_q, log_p = both_logprobs(student_logits, teacher_logits, temperature)
    return adaptive_kl_from_logprobs(log_q, log_p, head_mass=head_mass)


def adaptive_kl_from_logprobs(
    log_q: Logprobs, log_p: Logprobs, *, head_mass: float = 0.5
) -> PerPosition:
    """`adaptive_kl` of log-probabilities; gradients flow through `log_q`."""
    check_between_0_and_1("head_mass", head_mass)
    log_p = log_p.detach()
    weight = head_share(log_q.detach().exp(), log_p.exp(), head_mass)
    # Forward KL may be inf, and 0 * inf is NaN.
    forward = kl(log_p, log_q).masked_fill(weight == 0, 0)
    return weight * forward + (1 - weight) * kl(log_q, floored(log_p))


def todi(
    student_logits: Logits, teacher_logits: TeacherLogits, *, temperature: float = 1.0
) -> PerPosition:
    r"""Token-wise distillation (ToDi), in nats: each token gets the KL that corrects it best.

    .. math:: \sum_v w_v\, p_v \log \frac{p_v}{q_v} + (1 - w_v)\, q_v \log \frac{q_v}{p_v}, \quad
        w_v = \frac{p_v}{p_v + q_v}

    Forward KL raises what the student finds too unlikely, reverse KL lowers what it finds too
    likely. w is detached, so the value is KL(p || q) + KL(q || p) but the gradient is not its. See
    `forward_kl` for the arguments; reverse KL has its floor, as in `reverse_kl`.

    References:
        Jung et al. 2025, "ToDi: Token-wise Distillation via Fine-Grained Divergence Control",
        https://arxiv.org/abs/2505.16297.

    Example:
        >>> p, q = torch.tensor([[0.75, 0.25]]), torch.tensor([[0.5, 0.5]])
        >>> todi(q.log(), p.log())
        tensor([0.2747])
    """
    return todi_from_logprobs(*both_logprobs(student_logits, teacher_logits, temperature))


def todi_from_logprobs(log_q: Logprobs, log_p: Logprobs) -> PerPosition:
    """`todi` of log-probabilities; gradients flow through `log_q`."""
    log_p, floored_log_p = log_p.detach(), floored(log_p)
    # p / (p + q) without 0 / 0, and exactly 1 where q = 0, so that it never meets an infinite
    # forward KL with a weight of 0.
    weight = (floored_log_p - log_q.detach()).sigmoid()
    forward, reverse = kl_of_tokens(log_p, log_q), kl_of_tokens(log_q, floored_log_p)
    return (weight * forward + (1 - weight) * reverse).sum(-1)


def head_share(
    q: Tensor, p: Tensor, head_mass: float, new: Callable[[], Tensor] | None = None
) -> Tensor:
    """The head's part of sum |p - q|; 0 where there is no difference at all.

    `new` gives room for a result of p's shape.
    """
    new = new or partial(torch.empty_like, p)
    least = _least_in_head(p, head_mass, new)
    gap = torch.sub(p, q, out=new()).abs_()
    total = gap.sum(-1).clamp_(min=torch.finfo(p.dtype).tiny)
    # As numbers: to multiply by booleans takes several times as long.
    in_head = torch.ge(p, least, out=new())
    return gap.mul_(in_head).sum(-1) / total


def _least_in_head(p: Tensor, head_mass: float, new: Callable[[], Tensor]) -> Tensor:
    """What a token of the head has at least, [*positions, 1]."""
    ascending = _ascending(p, new)
    mass = torch.cumsum(ascending, -1, out=new())
    # The border is the likeliest token outside of the head: with what is less likely it has more
    # than 1 - head_mass. Rounding may put it below all tokens.
    below = torch.searchsorted(mass, mass[..., -1:] - head_mass).clamp_(max=p.shape[-1] - 1)
    border, likeliest = ascending.gather(-1, below), ascending[..., -1:]
    return torch.where(border == likeliest, likeliest, torch.nextafter(border, border + 1))


def _ascending(p: Tensor, new: Callable[[], Tensor]) -> Tensor:
    if p.device.type != "cpu":
        return p.sort(-1).values
    # NumPy sorts numbers, by vector instructions; torch sorts pairs, which takes 20 times as long.
    ascending = new().copy_(p)
    ascending.numpy().sort(-1)
    return ascending
