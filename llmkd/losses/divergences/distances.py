"""Distances that are no KL divergence: between probabilities, and between logits."""

import torch

from llmkd.losses.divergences.distributions import (
    Logits,
    Logprobs,
    PerPosition,
    TeacherLogits,
    both_logprobs,
    check_vocabularies,
    upcast,
)


def total_variation(
    student_logits: Logits, teacher_logits: TeacherLogits, *, temperature: float = 1.0
) -> PerPosition:
    r"""Total variation distance: the mass that would have to move, a share and not nats.

    Symmetric and bounded, so that no single token dominates. Its gradient vanishes where the student
    gives a token next to nothing: start from a student that has already learnt something.

    .. math:: \frac{1}{2} \sum_v |p_v - q_v|

    See `forward_kl` for the arguments. Where p = q it has no derivative; the gradient is 0 there.

    Returns:
        The distance at each position, in [0, 1], in float32 (float64 stays float64).

    References:
        Wen et al. 2023, "f-Divergence Minimization for Sequence-Level Knowledge Distillation",
        https://arxiv.org/abs/2307.15190. This is the step of their sum; which model writes the
        sequences is for the recipe to say.

    Example:
        >>> total_variation(torch.zeros(1, 2), torch.tensor([[0.0, -torch.inf]]))
        tensor([0.5000])
    """
    log_q, log_p = both_logprobs(student_logits, teacher_logits, temperature)
    return total_variation_from_logprobs(log_q, log_p)


def total_variation_from_logprobs(log_q: Logprobs, log_p: Logprobs) -> PerPosition:
    """`total_variation` of log-probabilities; gradients flow through `log_q`."""
    return (log_p.detach().exp() - log_q.exp()).abs().sum(-1) / 2


def logit_mse(student_logits: Logits, teacher_logits: TeacherLogits) -> PerPosition:
    r"""Mean squared difference of the logits: matches them as numbers, not as probabilities.

    Unlike every divergence, it also fixes the constant that softmax takes out, and counts an
    unlikely token as much as a likely one. Half of it is what forward KL times temperature squared
    tends to as the temperature grows, for logits of equal mean.

    .. math:: \frac{1}{|V|} \sum_{v \in V} (z^S_v - z^T_v)^2

    Two departures from the paper: it sums over the vocabulary, which makes the loss grow with it;
    and V here is only those tokens that the teacher does not rule out (-inf). Without any the
    distance is 0. There is no temperature.

    Args:
        student_logits: :math:`z^S`; gradients flow through it. Upcast to float32 here.
        teacher_logits: :math:`z^T`; detached here.

    Returns:
        The distance at each position, at least 0, in float32 (float64 stays float64).

    Raises:
        ValueError: The two vocabularies differ in size.

    References:
        Kim et al. 2021, "Comparing Kullback-Leibler Divergence and Mean Squared Error Loss in
        Knowledge Distillation", https://arxiv.org/abs/2105.08919, section 3.

    Example:
        >>> logit_mse(torch.zeros(1, 3), torch.tensor([[1.0, 3.0, -torch.inf]]))
        tensor([5.])
    """
    check_vocabularies(student_logits, teacher_logits)
    difference = upcast(student_logits) - upcast(teacher_logits.detach())
    is_allowed = teacher_logits != -torch.inf
    squares = difference.masked_fill(~is_allowed, 0).square()
    return squares.sum(-1) / is_allowed.sum(-1).clamp(min=1)
