r"""Reverse KL to the teacher on tokens that the student drew itself, to be differentiated.

With :math:`d = \log q(a) - \log p(a)` of a token a drawn from the student q, every form here has the
gradient :math:`d\, \nabla \log q(a)`, whose expectation is that of KL(q || p) at the position. They
differ in value, in variance, and in what they do with tokens of an older student: there the ratio
:math:`\rho = q(a) / q_{old}(a)` puts the expectation right.

Each position stands for itself, given the tokens before it: what a token does to the KL of later
positions has no gradient here.

References:
    Xu et al. 2025, "KDRL: Post-Training Reasoning LLMs via Unified Knowledge Distillation and
    Reinforcement Learning", https://arxiv.org/abs/2506.02208, equations 5 and 8.
    Schulman 2020, "Approximating KL Divergence", http://joschu.net/blog/kl-approx.html: k1, k2, k3.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from llmkd.errors import InputError
from llmkd.losses.divergences import LOG_PROB_FLOOR
from llmkd.losses.signals import wide

_MOST_NATS = 20.0

REFUSED = {
    "k1": (
        "its gradient is that of the token's own log-probability, which is zero on average: it "
        "teaches nothing"
    ),
    "k3": (
        "without the ratio its gradient is that of the forward KL, with weights that have no bound"
    ),
}
"""Estimators whose values are right and whose gradients are not, with the reason."""


def k2(
    student_logprobs: Float[Tensor, "*position"],
    teacher_logprobs: Float[Tensor, "*position"],
    old_logprobs: Float[Tensor, "*position"] | None = None,
) -> Float[Tensor, "*position"]:
    r"""Half the squared log-ratio, in nats: KDRL's own form, and the one to start with.

    .. math:: \mathrm{sg}(\rho)\, d^2 / 2

    As a value it is biased, by little where the models are close. The ratio is held fixed: with a
    live one the gradient would be :math:`(d + d^2 / 2)\, \nabla \log q`, even at a ratio of 1.

    The paper trains strictly on-policy and has no ratio; on such tokens it is 1 here too.

    Args:
        student_logprobs: Of the drawn tokens; gets the gradient.
        teacher_logprobs: Of the same; below `LOG_PROB_FLOOR` they count as that.
        old_logprobs: Of the student that drew them; None where that is the present one.

    Returns:
        float32 (float64 stays float64), 0 or more.

    References:
        Equation 8 of KDRL, https://arxiv.org/abs/2506.02208.
    """
    difference, ratio, _ = _compared(student_logprobs, teacher_logprobs, old_logprobs)
    return ratio.detach() * difference.square() / 2


def corrected_k3(
    student_logprobs: Float[Tensor, "*position"],
    teacher_logprobs: Float[Tensor, "*position"],
    old_logprobs: Float[Tensor, "*position"] | None = None,
) -> Float[Tensor, "*position"]:
    r"""The unbiased estimate of low variance, in nats, times the live ratio.

    .. math:: \rho\, (e^{-d} + d - 1) = p(a) / q_{old}(a) + \rho\, (d - 1)

    For a loss whose value is to be read as the KL. Computed as on the right, where the first part is
    a constant: that never subtracts one large exponential from another.

    Args:
        student_logprobs: As in `k2`.
        teacher_logprobs: As in `k2`.
        old_logprobs: As in `k2`.

    Returns:
        float32 (float64 stays float64), 0 or more; the constant part counts up to e^20.

    References:
        Schulman 2020, http://joschu.net/blog/kl-approx.html. The ratio is the unbiased estimate of
        DeepSeek-AI 2025, "DeepSeek-V3.2", https://arxiv.org/abs/2512.02556.
    """
    difference, ratio, of_old = _compared(student_logprobs, teacher_logprobs, old_logprobs)
    return of_old.clamp(max=_MOST_NATS).exp() + ratio * (difference - 1)


def advantage(
    student_logprobs: Float[Tensor, "*position"],
    teacher_logprobs: Float[Tensor, "*position"],
    old_logprobs: Float[Tensor, "*position"] | None = None,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Float[Tensor, "*position"]:
    r"""The log-ratio as each token's own advantage, with PPO's clipping.

    .. math:: -\min(\rho A,\ \mathrm{clip}(\rho, 1 - \epsilon_{low}, 1 + \epsilon_{high})\, A),
        \qquad A = -\mathrm{sg}(d)

    For many updates on the same rollouts: a token whose probability has moved far already gets no
    further push. Its value is k1, which may be negative. The advantage is that of the present
    student, not of the one that drew the token, so that without clipping the gradient stays that of
    the present KL.

    Args:
        student_logprobs: As in `k2`.
        teacher_logprobs: As in `k2`.
        old_logprobs: As in `k2`.
        clip_low: How far below 1 the ratio counts, in [0, 1].
        clip_high: How far above 1 it counts.

    Returns:
        float32 (float64 stays float64).

    References:
        Schulman et al. 2017, "Proximal Policy Optimization", https://arxiv.org/abs/1707.06347,
        equation 7. Equation 5 of KDRL, https://arxiv.org/abs/2506.02208, has A as a token's reward.
    """
    difference, ratio, _ = _compared(student_logprobs, teacher_logprobs, old_logprobs)
    advantages = -difference.detach()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


Estimator = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""From the student's, the teacher's and the older student's log-probabilities to a loss per token."""

ESTIMATORS: dict[str, Estimator] = {"k2": k2, "corrected_k3": corrected_k3, "advantage": advantage}


def estimator(name: str) -> Estimator:
    """The form of that name.

    Raises:
        InputError: There is none, or its gradient is not that of the reverse KL.
    """
    if name in ESTIMATORS:
        return ESTIMATORS[name]
    reason = f"{name} as a loss is refused: {REFUSED[name]}" if name in REFUSED else f"no {name}"
    raise InputError(f"kd.estimator: {reason}; write one of {', '.join(ESTIMATORS)}")


def _compared(
    student_logprobs: Tensor, teacher_logprobs: Tensor, old_logprobs: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The live d and ratio, and log p - log q_old, in float32 or float64."""
    student = student_logprobs.to(wide(student_logprobs.dtype))
    teacher = teacher_logprobs.detach().to(student.dtype).clamp(min=LOG_PROB_FLOOR)
    old = student.detach() if old_logprobs is None else old_logprobs.detach().to(student.dtype)
    return student - teacher, (student - old).exp(), teacher - old
