"""Divergences from a mixture of both models: bounded, and finite whatever either rules out."""

from torch import Tensor

from llmkd.losses.divergences.distributions import (
    Logits,
    Logprobs,
    PerPosition,
    TeacherLogits,
    both_logprobs,
    check_between_0_and_1,
    kl,
)


def jsd(
    student_logits: Logits,
    teacher_logits: TeacherLogits,
    *,
    temperature: float = 1.0,
    teacher_weight: float = 0.5,
) -> PerPosition:
    r"""Generalised Jensen-Shannon divergence, in nats: bounded, between forward and reverse KL.

    .. math:: w\,KL(p \| m) + (1 - w)\,KL(q \| m), \quad m = w p + (1 - w) q

    At most the entropy of (w, 1 - w), so ln 2 at w = 0.5. It vanishes at both ends: JSD / w tends to
    KL(p || q) as w goes to 0, and JSD / (1 - w) to KL(q || p) as w goes to 1. A recipe that sweeps
    `teacher_weight` therefore sweeps the loss's scale with it.

    Args:
        student_logits: :math:`z^S`; gradients flow through it. Upcast to float32 here.
        teacher_logits: :math:`z^T`; detached here.
        temperature: :math:`\tau > 0`, divides both logits. 1 leaves them as they are.
        teacher_weight: w, the teacher's share of the mixture, in (0, 1). The paper's beta.

    Returns:
        The divergence at each position, at least 0 up to rounding, in float32 (float64 stays so).

    Raises:
        ValueError: The vocabularies differ, or temperature or weight is out of range.

    References:
        Agarwal et al. 2024, "On-Policy Distillation of Language Models: Learning from
        Self-Generated Mistakes", https://arxiv.org/abs/2306.13649, section 2.

    Example:
        >>> jsd(torch.tensor([[0.0, -torch.inf]]), torch.tensor([[-torch.inf, 0.0]]))
        tensor([0.6931])
    """
    log_q, log_p = both_logprobs(student_logits, teacher_logits, temperature)
    return jsd_from_logprobs(log_q, log_p, teacher_weight=teacher_weight)


def jsd_from_logprobs(
    log_q: Logprobs, log_p: Logprobs, *, teacher_weight: float = 0.5
) -> PerPosition:
    """`jsd` of log-probabilities; gradients flow through `log_q`."""
    check_between_0_and_1("teacher_weight", teacher_weight)
    log_p = log_p.detach()
    log_m = _log_mixture(log_p, log_q, teacher_weight)
    return teacher_weight * kl(log_p, log_m) + (1 - teacher_weight) * kl(log_q, log_m)


def skew_forward_kl(
    student_logits: Logits,
    teacher_logits: TeacherLogits,
    *,
    temperature: float = 1.0,
    alpha: float = 0.1,
) -> PerPosition:
    r"""Skew forward KL, in nats: forward KL whose gradient stays small where the student is far off.

    .. math:: KL(p \| \alpha p + (1 - \alpha) q)

    Forward KL as alpha goes to 0; at most -ln alpha, which is 2.3 at 0.1.

    Args:
        student_logits: :math:`z^S`; gradients flow through it. Upcast to float32 here.
        teacher_logits: :math:`z^T`; detached here.
        temperature: :math:`\tau > 0`, divides both logits. 1 leaves them as they are.
        alpha: How much of p goes into what p is compared with, in (0, 1).

    Returns:
        The divergence at each position, at least 0 up to rounding, in float32 (float64 stays so).

    Raises:
        ValueError: The vocabularies differ, or temperature or alpha is out of range.

    References:
        Ko et al. 2024, "DistiLLM: Towards Streamlined Distillation for Large Language Models",
        https://arxiv.org/abs/2402.03898, section 3.1. Its code leaves out the teacher's entropy, a
        constant; here the value is the divergence.

    Example:
        >>> skew_forward_kl(torch.tensor([[0.0, -torch.inf]]), torch.tensor([[-torch.inf, 0.0]]))
        tensor([2.3026])
    """
    log_q, log_p = both_logprobs(student_logits, teacher_logits, temperature)
    return skew_forward_kl_from_logprobs(log_q, log_p, alpha=alpha)


def skew_forward_kl_from_logprobs(
    log_q: Logprobs, log_p: Logprobs, *, alpha: float = 0.1
) -> PerPosition:
    """`skew_forward_kl` of log-probabilities; gradients flow through `log_q`."""
    check_between_0_and_1("alpha", alpha)
    log_p = log_p.detach()
    return kl(log_p, _log_mixture(log_p, log_q, alpha))


def skew_reverse_kl(
    student_logits: Logits,
    teacher_logits: TeacherLogits,
    *,
    temperature: float = 1.0,
    alpha: float = 0.1,
) -> PerPosition:
    r"""Skew reverse KL, in nats: reverse KL that needs no floor where the teacher rules a token out.

    .. math:: KL(q \| (1 - \alpha) p + \alpha q)

    Reverse KL as alpha goes to 0; at most -ln alpha. The gradient is that of this formula, through
    the mixture as well: DistiLLM-2's code (https://arxiv.org/abs/2503.07067) detaches the mixture.
    See `skew_forward_kl` for the arguments; here alpha is how much of q goes into the mixture.

    References:
        Ko et al. 2024, "DistiLLM", https://arxiv.org/abs/2402.03898, section 3.1.

    Example:
        >>> skew_reverse_kl(torch.zeros(1, 2), torch.tensor([[0.0, -torch.inf]]), alpha=0.5)
        tensor([0.1438])
    """
    log_q, log_p = both_logprobs(student_logits, teacher_logits, temperature)
    return skew_reverse_kl_from_logprobs(log_q, log_p, alpha=alpha)


def skew_reverse_kl_from_logprobs(
    log_q: Logprobs, log_p: Logprobs, *, alpha: float = 0.1
) -> PerPosition:
    """`skew_reverse_kl` of log-probabilities; gradients flow through `log_q`."""
    check_between_0_and_1("alpha", alpha)
    return kl(log_q, _log_mixture(log_p.detach(), log_q, 1 - alpha))


def _log_mixture(log_p: Tensor, log_q: Tensor, teacher_weight: float) -> Tensor:
    mixture = teacher_weight * log_p.exp() + (1 - teacher_weight) * log_q.exp()
    # Where neither has mass kl drops the token; log(0) there would make the gradient NaN.
    return mixture.masked_fill(mixture == 0, 1).log()
