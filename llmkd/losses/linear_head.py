"""Divergences straight from hidden states: the full [position, vocab] logits never exist.

A language model's head turns H numbers per position into V, and V is large: at 8,000 positions and
150,000 tokens one float32 logit tensor takes 4.5 GiB, and a divergence with its gradient needs about
eight. Here a chunk of positions at a time goes through both heads, all terms and the gradient, so
that only the chunk's logits stand in memory. The gradient is computed in the forward pass, while the
chunk's logits are at hand (coming back for them would cost both heads' matrix products again), so
each position's final weight must be known beforehand.

A chunk is large, which makes the matrix products efficient; all that is done to its logits between
the products is done in blocks of a few positions, which stay in the processor's cache. The gradient
takes the place of the student's logits. So the workspace is two chunks and a block, however many
positions there are.

Shapes: N positions, V vocabulary, H hidden size (the student's and the teacher's may differ).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from llmkd.losses.blocks import Rows, refusal, take
from llmkd.losses.budgets import rows_of_block, rows_of_chunk
from llmkd.losses.row_threads import for_each
from llmkd.losses.scratch import block_scratch, chunk_scratch
from llmkd.losses.signals import (
    LinearHead,
    SparseLogits,
    back_through_head,
    head_logits,
    head_products,
    num_positions,
    product_dtype,
    sparse_rows,
    wide,
)
from llmkd.losses.terms import HeadOutput, HeadTerm, weighted_sum

_ROWS_OF_PRODUCT = 16_384


def divergence_from_hidden(
    student: LinearHead,
    teacher: LinearHead | SparseLogits | None,
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
        teacher: Its head, or what was stored of it; gets no gradient. None when no term needs one.
        target_ids: The token that each position predicts, in [0, V), or -100 for none.
        terms: What the loss is made of; at least one.
        position_weights: Each term's weight at each position; gets no gradient.
        diagnostics: Further values to report at each position, outside the loss.
        chunk_size: Positions per chunk; None takes what `llmkd.losses.budgets` says.
        compute_dtype: Of the matrix products; None follows autocast where that is on, and the
            student's tensors otherwise. Whatever it is, divergences are taken, and the chunks'
            gradients are added up, in float32 (float64 stays float64).

    Returns:
        The loss, ready for backward, and the detached values behind it.

    Raises:
        ValueError: The vocabularies differ in size, the shapes do not fit each other, or a term
            cannot be taken of such a teacher.
    """
    _check(student, teacher, target_ids, terms, position_weights)
    for term in (*terms, *diagnostics):
        if problem := refusal(term, teacher):
            raise ValueError(problem)
    assert chunk_size is None or chunk_size > 0
    dtype = compute_dtype or product_dtype(student)
    weights = position_weights.detach().to(wide(student.hidden.dtype))
    unit = _unit(weights) if dtype == torch.float16 else weights.new_ones(())
    on_cpu = student.weight.device.type == "cpu"
    job = _Job(
        _prepared(student, dtype),
        _prepared(teacher, dtype) if isinstance(teacher, LinearHead) else teacher,
        Rows(target_ids, weights / unit, tuple(terms), tuple(diagnostics)),
        chunk_size
        or rows_of_chunk(
            len(target_ids),
            dtype.itemsize * len(student.weight),
            student.hidden.shape[-1],
            on_cpu=on_cpu,
        ),
        unit,
    )
    parameters = student.hidden, student.weight, student.bias
    if not torch.is_grad_enabled():
        parameters = tuple(None if x is None else x.detach() for x in parameters)
    return HeadOutput(*_LinearHeadLoss.apply(*parameters, job))


@dataclass(frozen=True)
class _Job:
    """The arguments of `divergence_from_hidden`, detached and in the compute dtype."""

    student: LinearHead
    teacher: LinearHead | SparseLogits | None
    rows: Rows
    chunk_size: int
    unit: Tensor
    """What the rows' weights are multiples of."""


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
        # Of the hidden states each chunk writes its own rows; the rest is a sum over chunks.
        sum_dtype = _dtype_of_sum(job, weight)
        dtypes = hidden.dtype, sum_dtype, sum_dtype
        # The compute dtype decides the precision of the products here, not autocast; and memory that
        # is kept must not be made in inference mode, which forbids to change it later.
        with torch.autocast(hidden.device.type, enabled=False), torch.inference_mode(False):
            result = _Result(
                *job.rows.new_outputs(),
                *(
                    torch.empty(x.shape, dtype=dtype, device=x.device)
                    if needed and x is not None
                    else None
                    for x, dtype, needed in zip(
                        (hidden, weight, bias), dtypes, ctx.needs_input_grad, strict=False
                    )
                ),
            )
            with torch.no_grad():
                _run(job, result)
        ctx.gradients, ctx.unit = result[2:], job.unit
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, weight, bias)]
        ctx.mark_non_differentiable(result.values, result.diagnostics)
        loss = weighted_sum(job.rows.weights, result.values) * job.unit
        return loss, result.values, result.diagnostics

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *output_gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "the gradient of divergence_from_hidden was given away; run it again for another "
                "backward pass"
            )
        scale = output_gradients[0] * ctx.unit  # The other outputs have no gradient.
        gradients, ctx.gradients = ctx.gradients, None
        scaled = (
            g if g is None else _scaled(g, scale).to(dtype)
            for g, dtype in zip(gradients, ctx.dtypes, strict=True)
        )
        return *scaled, None


def _dtype_of_sum(job: _Job, weight: Tensor) -> torch.dtype:
    is_one_chunk = job.chunk_size >= len(job.rows.target_ids)
    if is_one_chunk and weight.dtype == job.student.weight.dtype == torch.bfloat16:
        return torch.bfloat16  # There is nothing to add up, and its product is rounded as it is.
    return job.rows.weights.dtype


def _scaled(gradient: Tensor, scale: Tensor) -> Tensor:
    # In place: a second weight gradient is large. To look at the scale, an accelerator would wait.
    is_one = scale.device.type == "cpu" and scale.item() == 1
    return gradient if is_one else gradient.mul_(scale)


def _run(job: _Job, result: _Result) -> None:
    rows = job.rows
    is_weighted = rows.weights.ne(0).any(0).tolist()  # The pass's one wait for the accelerator.
    needs_gradient = any(gradient is not None for gradient in result[2:])
    scratch = chunk_scratch()
    num_rows = min(job.chunk_size, len(is_weighted))
    buffers = [
        scratch.like(head.hidden.new_empty(1).expand(num_rows, len(head.weight)))
        if isinstance(head, LinearHead)
        else None
        for head in (job.student, job.teacher)
    ]
    is_first = True
    for start in range(0, len(is_weighted), job.chunk_size):
        chunk = slice(start, min(start + job.chunk_size, len(is_weighted)))
        has_gradient = needs_gradient and any(is_weighted[chunk])
        products = _run_chunk(job, chunk, buffers, has_gradient, result)
        if has_gradient:
            _accumulate(products, job.student, chunk, result, is_first=is_first)
            is_first = False
        elif result.hidden_gradient is not None:
            result.hidden_gradient[chunk].zero_()
    for gradient in (result.weight_gradient, result.bias_gradient):
        if is_first and gradient is not None:
            gradient.zero_()


def _run_chunk(
    job: _Job, chunk: slice, buffers: list[Tensor | None], needs_gradient: bool, result: _Result
) -> Tensor:
    """Fills in the chunk's values, and gives the gradient by the student's products there."""
    student, teacher = (
        head_products(head, chunk, out=buffer[: chunk.stop - chunk.start])
        if isinstance(head, LinearHead) and buffer is not None
        else None
        for head, buffer in zip((job.student, job.teacher), buffers, strict=True)
    )
    assert student is not None
    row_bytes = wide(student.dtype).itemsize * student.shape[-1]
    block_size = rows_of_block(row_bytes, on_cpu=student.device.type == "cpu")

    def run_block(start: int) -> None:
        inside = slice(start, min(start + block_size, len(student)))
        block = slice(chunk.start + inside.start, chunk.start + inside.stop)
        scratch = block_scratch()
        gradient = scratch.widened(student[inside])
        logits = head_logits(job.student, gradient)
        teacher_products = None if teacher is None else scratch.widened(teacher[inside])
        take(
            job.rows,
            block,
            logits,
            _teacher_rows(job.teacher, block, teacher_products),
            result.values,
            result.diagnostics,
            gradient=gradient if needs_gradient else None,
            scratch=scratch,
        )
        if needs_gradient:
            back_through_head(job.student, logits, gradient)
            if gradient.dtype != student.dtype:
                student[inside].copy_(gradient)

    for_each(run_block, range(0, len(student), block_size), device=student.device)
    return student


def _teacher_rows(
    teacher: LinearHead | SparseLogits | None, block: slice, products: Tensor | None
) -> Tensor | SparseLogits | None:
    if isinstance(teacher, LinearHead):
        assert products is not None
        return head_logits(teacher, products)
    return teacher and sparse_rows(teacher, block)


def _accumulate(
    gradient: Tensor, student: LinearHead, chunk: slice, result: _Result, *, is_first: bool
) -> None:
    """From the gradient of `hidden @ weight.T + bias` to those of its three parts."""
    if result.hidden_gradient is not None:
        _add_product(result.hidden_gradient[chunk], gradient, student.weight, is_first=True)
    if result.weight_gradient is not None:
        hidden = student.hidden[chunk]
        _add_product(result.weight_gradient, gradient.T, hidden, is_first=is_first)
    if result.bias_gradient is not None:
        ones = result.bias_gradient.new_ones(1, len(gradient), dtype=gradient.dtype)
        _add_product(result.bias_gradient[None], ones, gradient, is_first=is_first)


def _add_product(total: Tensor, a: Tensor, b: Tensor, *, is_first: bool) -> None:
    """`total += a @ b`, into what may hold anything the first time."""
    if total.dtype == a.dtype:
        total.addmm_(a, b, beta=0 if is_first else 1)
        return
    # In slices, as the product is rounded to its own type before it is added; and not in float16,
    # where the sum over a chunk may be more than it can hold.
    for part, rows in zip(total.split(_ROWS_OF_PRODUCT), a.split(_ROWS_OF_PRODUCT), strict=True):
        product = rows.float() @ b.float() if a.dtype == torch.float16 else rows @ b
        if is_first:
            part.copy_(product)
        else:
            part.add_(product)


def _unit(weights: Tensor) -> Tensor:
    """The power of two next to the largest weight, so that dividing by it rounds nothing.

    A share of a mean over many tokens times a gradient is less than float16 can hold.
    """
    if not weights.numel():
        return weights.new_ones(())
    largest = weights.abs().amax()
    return torch.where(largest > 0, largest.log2().floor().exp2(), 1)


def _prepared(head: LinearHead, dtype: torch.dtype) -> LinearHead:
    return replace(
        head,
        hidden=head.hidden.detach().to(dtype),
        weight=head.weight.detach().to(dtype),
        bias=None if head.bias is None else head.bias.detach().to(dtype),
    )


def _check(
    student: LinearHead,
    teacher: LinearHead | SparseLogits | None,
    target_ids: Tensor,
    terms: Sequence[HeadTerm],
    position_weights: Tensor,
) -> None:
    if isinstance(teacher, LinearHead) and len(teacher.weight) != len(student.weight):
        raise ValueError(
            f"the student's head has {len(student.weight)} tokens and the teacher's "
            f"{len(teacher.weight)}; a token-level divergence needs one shared vocabulary: "
            "if the larger one is only padded, cut it with `crop(head, vocab_size)`"
        )
    teacher_positions = num_positions(student if teacher is None else teacher)
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
