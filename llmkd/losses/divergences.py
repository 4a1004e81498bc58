"""Divergences between a teacher's and a student's next-token distributions.

Every function here is pure: it gives one number per position, in nats. Nothing here masks, averages,
weights or scales: `llmkd.objective` does that once, for every divergence alike. `p` is the teacher
and `q` the student throughout, as in Hinton et al. 2015.

Each divergence has two forms. `forward_kl` takes logits; `forward_kl_from_logprobs` takes what
`logprobs` makes of them, so that several terms on the same logits share one log-softmax. The first
is `logprobs` followed by the second.

A token of probability 0 adds nothing (0 log 0 = 0). A divergence that is infinite is returned as
`inf`, and no gradient is ever NaN because of it.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Logits = Float[Tensor, "*positions vocab"]
TeacherLogits = Float[Tensor, "*positions teacher_vocab"]  # Another size gets a better error below.
Logprobs = Float[Tensor, "*positions vocab"]
TargetIds = Int[Tensor, "*positions"]
PerPosition = Float[Tensor, "*positions"]

IGNORED_ID = -100
"""The target id of a position without a target, as in `torch.nn.functional.cross_entropy`."""

LOG_PROB_FLOOR = -1000.0
"""Nats; what a teacher rules out counts as this unlikely, so that reverse KL stays finite."""


def logprobs(logits: Logits, *, temperature: float = 1.0) -> Logprobs:
    r"""Log-probabilities, in nats: what every `*_from_logprobs` function takes.

    .. math:: \log \mathrm{softmax}(z / \tau)

    Args:
        logits: :math:`z`; gradients flow through it. Upcast to float32 before anything else.
        temperature: :math:`\tau > 0`. 1 leaves the logits as they are.

    Returns:
        At most 0, -inf where a logit is -inf, in float32 (float64 stays float64).

    Raises:
        ValueError: The temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be greater than 0")
    logits = logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32)
    return F.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)


def cross_entropy(student_logits: Logits, target_ids: TargetIds) -> PerPosition:
    r"""Cross-entropy with the label, in nats: the usual language-model loss.

    .. math:: -\log q_y, \quad q = \mathrm{softmax}(z^S)

    Args:
        student_logits: :math:`z^S`; gradients flow through it.
        target_ids: :math:`y`, in [0, vocab), or -100 for a position without a target.

    Returns:
        At least 0, and 0 where the target is -100, in float32 (float64 stays float64).

    Example:
        >>> cross_entropy(torch.zeros(2, 4), torch.tensor([3, -100]))
        tensor([1.3863, 0.0000])
    """
    return cross_entropy_from_logprobs(logprobs(student_logits), target_ids)


def cross_entropy_from_logprobs(log_q: Logprobs, target_ids: TargetIds) -> PerPosition:
    """`cross_entropy` of log-probabilities."""
    # Only -100 is replaced: any other id outside the vocabulary is a mistake, and gather says so.
    ignored = target_ids == IGNORED_ID
    safe_ids = target_ids.masked_fill(ignored, 0).unsqueeze(-1)
    return log_q.gather(-1, safe_ids).squeeze(-1).neg().masked_fill(ignored, 0)


def teacher_nll(teacher_logits: Logits, target_ids: TargetIds) -> PerPosition:
    r"""The teacher's negative log-likelihood of the label, in nats: shows a teacher that is lost.

    .. math:: -\log p_y, \quad p = \mathrm{softmax}(z^T)

    See `cross_entropy` for the arguments; the teacher is detached. A label that the teacher rules
    out costs inf.
    """
    return cross_entropy(teacher_logits.detach(), target_ids)


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
    return forward_kl_from_logprobs(*_both(student_logits, teacher_logits, temperature))


def forward_kl_from_logprobs(log_q: Logprobs, log_p: Logprobs) -> PerPosition:
    """`forward_kl` of log-probabilities; gradients flow through `log_q`."""
    return _kl(log_p.detach(), log_q)


def reverse_kl(
    student_logits: Logits, teacher_logits: TeacherLogits, *, temperature: float = 1.0
) -> PerPosition:
    r"""KL(q || p), in nats: mode-seeking, the student may leave out what it cannot model.

    .. math:: \sum_v q_v (\log q_v - \log p_v)

    Where the teacher rules out (-inf) a token that the student allows, the value is inf and its
    gradient, which has no finite direction, is 0: floor the teacher's logits to train through it.
    See `forward_kl` for the arguments.

    References:
        Gu et al. 2024, "MiniLLM: Knowledge Distillation of Large Language Models",
        https://arxiv.org/abs/2306.08543, equation 1.

    Example:
        >>> reverse_kl(torch.zeros(1, 2), torch.tensor([[0.0, -torch.inf]])).item()
        inf
    """
    return reverse_kl_from_logprobs(*_both(student_logits, teacher_logits, temperature))


def reverse_kl_from_logprobs(log_q: Logprobs, log_p: Logprobs) -> PerPosition:
    """`reverse_kl` of log-probabilities; gradients flow through `log_q`."""
    log_p = log_p.detach()
    is_infinite = ((log_p == -torch.inf) & (log_q.detach().exp() > 0)).any(-1)
    # inf * 0 is NaN on the way back, so an infinite position is made finite before it is infinite.
    finite_log_p = log_p.masked_fill(is_infinite.unsqueeze(-1), 0)
    return _kl(log_q, finite_log_p).masked_fill(is_infinite, torch.inf)


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
    log_q, log_p = _both(student_logits, teacher_logits, temperature)
    return jsd_from_logprobs(log_q, log_p, teacher_weight=teacher_weight)


def jsd_from_logprobs(
    log_q: Logprobs, log_p: Logprobs, *, teacher_weight: float = 0.5
) -> PerPosition:
    """`jsd` of log-probabilities; gradients flow through `log_q`."""
    if not 0 < teacher_weight < 1:
        raise ValueError(f"teacher_weight is {teacher_weight}; it must be between 0 and 1")
    log_p = log_p.detach()
    mixture = teacher_weight * log_p.exp() + (1 - teacher_weight) * log_q.exp()
    # Where neither has mass _kl drops the token; log(0) there would make the gradient NaN.
    log_m = mixture.masked_fill(mixture == 0, 1).log()
    return teacher_weight * _kl(log_p, log_m) + (1 - teacher_weight) * _kl(log_q, log_m)


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    a = log_a.exp()
    # 0 log 0 is 0. F.kl_div(log_target=True) gives NaN there, in value and in gradient. So what is
    # not finite is replaced before it is multiplied; the difference itself has no harmful derivative.
    log_ratio = (log_a - log_b).masked_fill_(a == 0, 0)
    return (a * log_ratio).sum(-1)


def _both(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    if student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"student has {student.shape[-1]} logits per position and teacher {teacher.shape[-1]}; "
            "a token-level divergence needs one shared vocabulary: crop the padded columns of the "
            "larger one"
        )
    log_q = logprobs(student, temperature=temperature)
    return log_q, logprobs(teacher.detach(), temperature=temperature)
