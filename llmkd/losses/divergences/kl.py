"""The two Kullback-Leibler divergences."""

from llmkd.losses.divergences.distributions import (
    Logits,
    Logprobs,
    PerPosition,
    TeacherLogits,
    both_logprobs,
    floored,
    kl,
)


def forward_kl(
    student_logits: Logits, teacher_logits: TeacherLogits, *, temperature: float = 1.0
) -> PerPosition:
    r"""KL(p || q): the cost, in nats, of coding the teacher's tokens with the student's distribution.

    Mean-seeking: the student must cover every token that the teacher finds likely.

    .. math:: \sum_v p_v (\log p_v - \log q_v), \quad p = \mathrm{softmax}(z^T / \tau)

    The result is not multiplied by :math:`\tau^2`: `llmkd.objective` does so when the recipe says
    `temperature_scaling: squared`.

    Args:
        student_logits: :math:`z^S`; gradients flow through it. Upcast to float32 here.
        teacher_logits: :math:`z^T`; detached here.
        temperature: :math:`\tau > 0`, divides both logits. 1 leaves them as they are.

    Returns:
        The divergence at each position, at least 0, in float32 (float64 stays float64).

    Raises:
        ValueError: The two vocabularies differ in size, or the temperature is not positive.

    References:
        Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network",
        https://arxiv.org/abs/1503.02531, section 2.

    Example:
        >>> z = torch.tensor([[2.0, 0.0, -2.0]])
        >>> forward_kl(z, z).item()
        0.0
    """
    return forward_kl_from_logprobs(*both_logprobs(student_logits, teacher_logits, temperature))


def forward_kl_from_logprobs(log_q: Logprobs, log_p: Logprobs) -> PerPosition:
    """`forward_kl` of log-probabilities; gradients flow through `log_q`."""
    return kl(log_p.detach(), log_q)


def reverse_kl(
    student_logits: Logits, teacher_logits: TeacherLogits, *, temperature: float = 1.0
) -> PerPosition:
    r"""KL(q || p), in nats: mode-seeking, the student may leave out what it cannot model.

    .. math:: \sum_v q_v (\log q_v - \max(\log p_v, -1000))

    Where the teacher rules out (-inf) a token that the student allows, KL(q || p) is infinite. Here
    the teacher's log-probabilities end at `LOG_PROB_FLOOR`, so the value is finite and its gradient
    takes the student away from that token; `num_clamped` counts such tokens. See `forward_kl` for
    the arguments.

    Returns:
        The divergence at each position, in [0, 1000], in float32 (float64 stays float64).

    References:
        Gu et al. 2024, "MiniLLM: Knowledge Distillation of Large Language Models",
        https://arxiv.org/abs/2306.08543, equation 1. The floor is ours.

    Example:
        >>> reverse_kl(torch.zeros(1, 2), torch.tensor([[0.0, -torch.inf]]))
        tensor([499.3068])
    """
    return reverse_kl_from_logprobs(*both_logprobs(student_logits, teacher_logits, temperature))


def reverse_kl_from_logprobs(log_q: Logprobs, log_p: Logprobs) -> PerPosition:
    """`reverse_kl` of log-probabilities; gradients flow through `log_q`."""
    return kl(log_q, floored(log_p))
