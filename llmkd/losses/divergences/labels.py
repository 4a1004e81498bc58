"""Losses that know the label: cross-entropy, a squared error, and what a teacher says beside it."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from llmkd.losses.divergences.distributions import (
    Logits,
    Logprobs,
    PerPosition,
    TeacherLogits,
    both_logprobs,
    check_temperature,
    logprobs,
    upcast,
)

TargetIds = Int[Tensor, "*positions"]

IGNORED_ID = -100
"""The target id of a position without a target, as in `torch.nn.functional.cross_entropy`."""


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
    nll = log_q.gather(-1, gatherable(target_ids)).squeeze(-1).neg()
    return nll.masked_fill(target_ids == IGNORED_ID, 0)


def teacher_nll(teacher_logits: Logits, target_ids: TargetIds) -> PerPosition:
    r"""The teacher's negative log-likelihood of the label, in nats: shows a teacher that is lost.

    .. math:: -\log p_y, \quad p = \mathrm{softmax}(z^T)

    See `cross_entropy` for the arguments; the teacher is detached. A label that the teacher rules
    out costs inf.
    """
    return cross_entropy(teacher_logits.detach(), target_ids)


def label_mse(
    student_logits: Float[Tensor, "*positions 1"], targets: Float[Tensor, "*positions"]
) -> PerPosition:
    r"""Squared difference of a model's one output and the label, a number: regression.

    For labels that are amounts, such as STS-B's similarity from 0 to 5. It is in the square of their
    unit, and not in nats.

    .. math:: (z^S - y)^2

    Args:
        student_logits: :math:`z^S`, one per position; gradients flow through it. Upcast to float32
            here.
        targets: :math:`y`, any finite numbers; none stands for "no label".

    Returns:
        At least 0, in float32 (float64 stays float64).

    Example:
        >>> label_mse(torch.tensor([[3.0], [1.0]]), torch.tensor([2.5, 5.0]))
        tensor([ 0.2500, 16.0000])
    """
    outputs = upcast(student_logits).squeeze(-1)
    return (outputs - targets.to(outputs.dtype)).square()


def nkd(
    student_logits: Logits,
    teacher_logits: TeacherLogits,
    target_ids: TargetIds,
    *,
    temperature: float = 1.0,
    non_target_weight: float = 1.5,
) -> PerPosition:
    r"""Normalised knowledge distillation (NKD), in nats: the label and the rest apart.

    .. math:: -p_y \log q_y - \gamma \tau^2 \sum_{v \ne y} \hat p_v \log \hat q_v, \quad
        \hat p = \mathrm{softmax}_{v \ne y}(z^T / \tau)

    The first part is cross-entropy, weighed by how much the teacher trusts the label. The second
    teaches how the teacher ranks all other tokens, however little mass it leaves them, and moves the
    label's logit not at all. Both are cross-entropies: where p = q the value is not 0, but the
    second part's gradient is. The paper adds it to cross-entropy.

    :math:`\tau^2` is in the formula, so nothing else should multiply by it again.

    Args:
        student_logits: :math:`z^S`; gradients flow through it. Upcast to float32 here.
        teacher_logits: :math:`z^T`; detached here.
        target_ids: :math:`y`, in [0, vocab), or -100 for a position without a target.
        temperature: :math:`\tau > 0`, of the second part; the first has temperature 1.
        non_target_weight: :math:`\gamma`, the second part's weight.

    Returns:
        At least 0, and 0 where the target is -100, in float32 (float64 stays float64). Where the
        label is all that the teacher allows, the second part is 0.

    Raises:
        ValueError: The vocabularies differ in size, or the temperature is not positive.

    References:
        Yang et al. 2023, "From Knowledge Distillation to Self-Knowledge Distillation: A Unified
        Approach with Normalized Loss and Customized Soft Labels", https://arxiv.org/abs/2303.13005,
        section 3. It has images and one label each; here every position is one.

    Example:
        >>> nkd(torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([0]), non_target_weight=0.0)
        tensor([0.3662])
    """
    log_q, log_p = both_logprobs(student_logits, teacher_logits, 1.0)
    return nkd_from_logprobs(
        log_q, log_p, target_ids, temperature=temperature, non_target_weight=non_target_weight
    )


def nkd_from_logprobs(
    log_q: Logprobs,
    log_p: Logprobs,
    target_ids: TargetIds,
    *,
    temperature: float = 1.0,
    non_target_weight: float = 1.5,
) -> PerPosition:
    """`nkd` of log-probabilities at temperature 1; gradients flow through `log_q`.

    `temperature` is applied here: log-probabilities are logits too, shifted.
    """
    check_temperature(temperature)
    log_p, label = log_p.detach(), gatherable(target_ids)
    p_label, log_q_label = (x.gather(-1, label).squeeze(-1) for x in (log_p.exp(), log_q))
    target = -p_label * log_q_label.masked_fill(p_label == 0, 0)
    others_log_q, others_log_p = (others_logprobs(x / temperature, label) for x in (log_q, log_p))
    others_p = others_log_p.exp().scatter(-1, label, 0)
    non_target = -(others_p * others_log_q.masked_fill(others_p == 0, 0)).sum(-1)
    value = target + non_target_weight * temperature**2 * non_target
    return value.masked_fill(target_ids == IGNORED_ID, 0)


def others_logprobs(logits: Tensor, label: Tensor) -> Tensor:
    """Log-probabilities among all tokens but the label; the label's own are next to -inf."""
    # log(1 - q_y) would lose all digits of a label that is nearly certain. The least finite number
    # is as good as -inf, except that a row without any other token does not become NaN.
    return F.log_softmax(logits.scatter(-1, label, torch.finfo(logits.dtype).min), dim=-1)


def gatherable(target_ids: Tensor) -> Tensor:
    """Ids to gather with, [*positions, 1]: 0 where there is no target."""
    # Only -100 is replaced: any other id outside the vocabulary is a mistake, and gather says so.
    return target_ids.masked_fill(target_ids == IGNORED_ID, 0).unsqueeze(-1)
