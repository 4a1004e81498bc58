"""From logits to log-probabilities, and the sum that every KL divergence is."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Logits = Float[Tensor, "*positions vocab"]
TeacherLogits = Float[Tensor, "*positions teacher_vocab"]  # Another size gets a better error below.
Logprobs = Float[Tensor, "*positions vocab"]
PerPosition = Float[Tensor, "*positions"]
CountPerPosition = Int[Tensor, "*positions"]

LOG_PROB_FLOOR = -1000.0
"""What KL(q || p) takes for a teacher's log-probability below it, in nats.

A teacher that rules a token out (-inf) would make KL(q || p) infinite, and an infinite value has no
gradient to follow. With a floor the value is finite, and its gradient takes the student away from
that token. So low a floor leaves any teacher alone that rules nothing out: even at temperature 0.1 it
takes a token whose logit is 100 below the best."""


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
    check_temperature(temperature)
    logits = upcast(logits)
    return F.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)


def num_clamped(log_q: Logprobs, log_p: Logprobs) -> CountPerPosition:
    """How many tokens `reverse_kl`, `adaptive_kl` and `todi` clamp at `LOG_PROB_FLOOR`.

    Those that the teacher all but rules out while the student gives them mass (q > 0 in its own
    precision); the others add nothing either way. A count above 0 usually means that a mask, or a
    padded vocabulary, is on the teacher's side only.

    Args:
        log_q: The student's log-probabilities.
        log_p: The teacher's.

    Returns:
        The number of vocabulary entries at each position, in [0, vocab].

    Example:
        >>> num_clamped(logprobs(torch.zeros(1, 3)), torch.tensor([[0.0, -torch.inf, -torch.inf]]))
        tensor([2])
    """
    return ((log_p < LOG_PROB_FLOOR) & (log_q.exp() > 0)).sum(-1)


def kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a || b), summed over the last dimension."""
    return kl_of_tokens(log_a, log_b).sum(-1)


def kl_of_tokens(log_a: Tensor, log_b: Tensor) -> Tensor:
    """Each token's part of KL(a || b)."""
    a = log_a.exp()
    # 0 log 0 is 0. F.kl_div(log_target=True) gives NaN there, in value and in gradient. So what is
    # not finite is replaced before it is multiplied; the difference itself has no harmful derivative.
    return a * (log_a - log_b).masked_fill_(a == 0, 0)


def floored(log_p: Tensor) -> Tensor:
    """The teacher's log-probabilities with `LOG_PROB_FLOOR`, detached."""
    return log_p.detach().clamp(min=LOG_PROB_FLOOR)


def both_logprobs(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(log q, log p) of logits, the teacher's detached."""
    check_vocabularies(student, teacher)
    log_q = logprobs(student, temperature=temperature)
    return log_q, logprobs(teacher.detach(), temperature=temperature)


def upcast(logits: Tensor) -> Tensor:
    """The same numbers in float32; float64 stays float64."""
    return logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32)


def check_vocabularies(student: Tensor, teacher: Tensor) -> None:
    """Raises a ValueError where the two differ in their last dimension."""
    if student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"student has {student.shape[-1]} logits per position and teacher {teacher.shape[-1]}; "
            "a token-level divergence needs one shared vocabulary: crop the padded columns of the "
            "larger one"
        )


def check_temperature(temperature: float) -> None:
    """Raises a ValueError unless it is positive."""
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be greater than 0")


def check_between_0_and_1(name: str, value: float) -> None:
    """Raises a ValueError at 0, at 1 and outside."""
    if not 0 < value < 1:
        raise ValueError(f"{name} is {value}; it must be between 0 and 1")
