"""Divergences straight from hidden states: the full [position, vocab] logits never exist.

A language model's head turns H numbers per position into V, and V is large: at 8,000 positions and
150,000 tokens one float32 logit tensor takes 4.5 GiB, and a divergence with its gradient needs about
eight. Here a chunk of positions at a time goes through both heads, all terms and the gradient, so
that only the chunk's logits stand in memory. The gradient is computed in the forward pass, while the
chunk's logits are at hand (coming back for them would cost both heads' matrix products again), so
each position's final weight must be known beforehand.

Shapes: N positions, V vocabulary, H hidden size (the student's and the teacher's may differ).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from llmkd.losses.divergences import logprobs
from llmkd.losses.signals import LinearHead, head_logits, head_products, wide

# The float32 logits of one chunk, of which about eight copies stand at once. Larger chunks make the
# matrix products more efficient, but on a CPU the C library gives a buffer of 32 MiB or more back to
# the system after each use, and faulting it in again costs more than the arithmetic.
CHUNK_BYTES_ON_CPU = 31 * 2**20
CHUNK_BYTES_ON_ACCELERATOR = 256 * 2**20

Divergence = Callable[[Tensor, Any, Tensor], Tensor]
"""(student log-probabilities [n, V], the teacher's or None, target ids [n]) -> values [n]."""


@dataclass(frozen=True)
class HeadTerm:
    """One divergence to take of the heads' logits: a term of the loss, or a diagnostic."""

    name: str
    divergence: Divergence
    temperature: float = 1.0


@dataclass(frozen=True)
class HeadOutput:
    """The loss and what it was made of."""

    loss: Float[Tensor, ""]
    """The weighted sum of all values; the only field with a gradient."""
    values: Float[Tensor, "num_terms n"]
    """Each term at each position, in nats, without its weight; float32 (float64 stays float64)."""
    diagnostics: Float[Tensor, "num_diagnostics n"]
    """Each diagnostic at each position; likewise."""


def divergence_from_hidden(
    student: LinearHead,
    teacher: LinearHead | None,
    target_ids: Int[Tensor, " n"],
    terms: Sequence[HeadTerm],
    position_weights: Float[Tensor, "num_terms n"],
    *,
    diagnostics: Sequence[HeadTerm] = (),
    chunk_size: int | None = None,
    compute_dtype: torch.dtype | None = None,
) -> HeadOutput:
    r"""The weighted sum of several divergences, in one pass over the two heads.

    .. math:: \sum_i \sum_t w_{i,t}\, D_i(q_t, p_t, y_t)

    All that multiplies a value (mask, term weight, temperature squared, one over the number of
    tokens) is in the weights. A weight of exactly 0 leaves its value out even if that is infinite, and
    a position with no other weight gets no gradient even if a derivative there is not finite. Terms
    of one temperature share their log-softmaxes.

    Args:
        student: Gradients flow to its hidden states, weight and bias, where they require one.
        teacher: Gets no gradient. None when no term needs a teacher.
        target_ids: The token that each position predicts, in [0, V), or -100 for none.
        terms: What the loss is made of; at least one.
        position_weights: Each term's weight at each position; gets no gradient.
        diagnostics: Further values to report at each position, outside the loss.
        chunk_size: Positions per chunk; None takes as many as `CHUNK_BYTES_ON_...` holds.
        compute_dtype: Of the matrix products; None follows autocast where that is on, and the
            student's tensors otherwise. Whatever it is, divergences are taken, and the gradients
            are summed, in float32 (float64 stays float64).

    Returns:
        The loss, ready for backward, and the detached values behind it.

    Raises:
        ValueError: The vocabularies differ in size, or the shapes do not fit each other.
    """
    _check(student, teacher, target_ids, terms, position_weights)
    assert chunk_size is None or chunk_size > 0
    dtype = compute_dtype or _default_dtype(student)
    job = _Job(
        _prepared(student, dtype),
        None if teacher is None else _prepared(teacher, dtype),
        target_ids,
        tuple(terms),
        position_weights.detach().to(wide(student.hidden.dtype)),
        tuple(diagnostics),
        chunk_size or _rows_within_budget(student.weight),
    )
    parameters = student.hidden, student.weight, student.bias
    if not torch.is_grad_enabled():
        parameters = tuple(None if x is None else x.detach() for x in parameters)
    return HeadOutput(*_LinearHeadLoss.apply(*parameters, job))


@dataclass(frozen=True)
class _Job:
    """The arguments of `divergence_from_hidden`, detached and in the compute dtype."""

    student: LinearHead
    teacher: LinearHead | None
    target_ids: Tensor
    terms: tuple[HeadTerm, ...]
    weights: Tensor
    diagnostics: tuple[HeadTerm, ...]
    chunk_size: int


class _Result(NamedTuple):
    """What the pass fills, chunk by chunk. A gradient that nobody needs is None."""

    values: Tensor
    diagnostics: Tensor
    hidden_gradient: Tensor | None
    weight_gradient: Tensor | None
    bias_gradient: Tensor | None


class _LinearHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, job: _Job
    ) -> tuple[Tensor, Tensor, Tensor]:
        result = _Result(
            job.weights.new_empty(len(job.terms), len(hidden)),
            job.weights.new_empty(len(job.diagnostics), len(hidden)),
            *(
                torch.zeros_like(x, dtype=job.weights.dtype) if needed and x is not None else None
                for x, needed in zip((hidden, weight, bias), ctx.needs_input_grad, strict=False)
            ),
        )
        # The compute dtype decides the precision of the products here, not autocast.
        with torch.autocast(hidden.device.type, enabled=False):
            _run(job, result)
        ctx.save_for_backward(*result[2:])
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, weight, bias)]
        ctx.mark_non_differentiable(result.values, result.diagnostics)
        return weighted_sum(job.weights, result.values), result.values, result.diagnostics

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *output_gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        scale = output_gradients[0]  # The other outputs have no gradient.
        scaled = (
            # `out` rounds once, and needs no second float32 copy of a bfloat16 weight's gradient.
            g if g is None else torch.mul(g, scale, out=torch.empty_like(g, dtype=dtype))
            for g, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return *scaled, None


def _run(job: _Job, result: _Result) -> None:
    is_weighted = job.weights.ne(0).any(0).tolist()  # The pass's one wait for the accelerator.
    for start in range(0, len(is_weighted), job.chunk_size):
        rows = slice(start, start + job.chunk_size)
        _run_chunk(job, rows, is_weighted[rows], result)


def _run_chunk(job: _Job, rows: slice, is_weighted: list[bool], result: _Result) -> None:
    needs_gradient = any(is_weighted) and any(gradient is not None for gradient in result[2:])
    products, ids, weights = (
        head_products(job.student, rows),
        job.target_ids[rows],
        job.weights[:, rows],
    )
    with torch.set_grad_enabled(needs_gradient):
        student_logits = head_logits(job.student, products.requires_grad_(needs_gradient))
        teacher_logits = job.teacher and head_logits(job.teacher, head_products(job.teacher, rows))
        logprobs_at = shared_logprobs(student_logits, teacher_logits)
        values = [term.divergence(*logprobs_at(term.temperature), ids) for term in job.terms]
        loss = weighted_sum(weights, torch.stack(values))
    for row, value in zip(result.values, values, strict=True):
        row[rows] = value.detach()
    for row, term in zip(result.diagnostics, job.diagnostics, strict=True):
        row[rows] = term.divergence(*logprobs_at(term.temperature), ids)
    if needs_gradient:
        (gradient,) = torch.autograd.grad(loss, products)
        if not all(is_weighted):
            # Zero times a derivative that is not finite is NaN; left out means 0.
            gradient.masked_fill_(weights.eq(0).all(0).unsqueeze(-1), 0)
        _accumulate(gradient, job.student, rows, result)


def shared_logprobs(
    student_logits: Tensor, teacher_logits: Tensor | None
) -> Callable[[float], tuple[Tensor, Tensor | None]]:
    """Both models' log-probabilities by temperature, each computed once."""

    @cache
    def logprobs_at(temperature: float) -> tuple[Tensor, Tensor | None]:
        log_q = logprobs(student_logits, temperature=temperature)
        if teacher_logits is None:
            return log_q, None
        return log_q, logprobs(teacher_logits, temperature=temperature)

    return logprobs_at


def _accumulate(gradient: Tensor, student: LinearHead, rows: slice, result: _Result) -> None:
    """From the gradient of `hidden @ weight.T + bias` to those of its three parts."""
    if result.bias_gradient is not None:
        result.bias_gradient.add_(gradient.sum(0))
    gradient, hidden = gradient.to(student.weight.dtype), student.hidden[rows]
    if result.hidden_gradient is not None:
        result.hidden_gradient[rows] = gradient @ student.weight
    if result.weight_gradient is None:
        return
    if result.weight_gradient.dtype == gradient.dtype:
        result.weight_gradient.addmm_(gradient.T, hidden)
    else:
        result.weight_gradient.add_(gradient.T @ hidden)


def weighted_sum(weights: Tensor, values: Tensor) -> Tensor:
    """Over all terms and positions; a weight of 0 leaves its value out."""
    # Not a plain product: a value left out may be inf, and 0 * inf is NaN.
    return torch.where(weights != 0, weights * values, 0).sum()


def _prepared(head: LinearHead, dtype: torch.dtype) -> LinearHead:
    return replace(
        head,
        hidden=head.hidden.detach().to(dtype),
        weight=head.weight.detach().to(dtype),
        bias=None if head.bias is None else head.bias.detach().to(dtype),
    )


def _default_dtype(head: LinearHead) -> torch.dtype:
    device = head.hidden.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return torch.promote_types(head.hidden.dtype, head.weight.dtype)


def _rows_within_budget(weight: Tensor) -> int:
    on_cpu = weight.device.type == "cpu"
    budget = CHUNK_BYTES_ON_CPU if on_cpu else CHUNK_BYTES_ON_ACCELERATOR
    return max(1, budget // (4 * len(weight)))


def _check(
    student: LinearHead,
    teacher: LinearHead | None,
    target_ids: Tensor,
    terms: Sequence[HeadTerm],
    position_weights: Tensor,
) -> None:
    if teacher is not None and len(teacher.weight) != len(student.weight):
        raise ValueError(
            f"the student's head has {len(student.weight)} tokens and the teacher's "
            f"{len(teacher.weight)}; a token-level divergence needs one shared vocabulary: "
            "if the larger one is only padded, cut it with `crop(head, vocab_size)`"
        )
    teacher_positions = len(student.hidden if teacher is None else teacher.hidden)
    if not len(student.hidden) == teacher_positions == len(target_ids):
        raise ValueError(
            f"the student has {len(student.hidden)} positions, the teacher {teacher_positions} and "
            f"target_ids {len(target_ids)}; they must be the same positions"
        )
    expected = (len(terms), len(target_ids))
    if not terms or tuple(position_weights.shape) != expected:
        raise ValueError(
            f"position_weights has shape {tuple(position_weights.shape)}; write one row per term "
            f"(at least one) and one column per position: {expected}"
        )
