"""Merging, one tensor at a time: every method is a weighted sum, and they differ in the weights."""

import math
from collections.abc import Sequence
from typing import assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from llmkd.recipe.merging import Linear, MergeMethod, Slerp, TaskArithmetic

PARALLEL = 0.9995
"""|cosine| beyond which two tensors lie on one line, and the arc between them is taken for it."""
CHUNK = 2**16
"""Numbers that are multiplied in float64 at a time."""


def coefficients(method: MergeMethod, num_models: int, cosine: float | None) -> tuple[float, ...]:
    """What each tensor is multiplied by before they are added.

        slerp             sin((1 - t) w) / sin w,  sin(t w) / sin w   with w the angle between the two
        linear            w_i / sum_j w_j, or w_i
        task_arithmetic   1 - sum_j w_j for the base, then w_i:  base + sum_i w_i (model_i - base)

    Args:
        method: As the recipe has it.
        num_models: All that are read, a base included.
        cosine: Of the angle between the first two tensors; None where one of them is zero.

    References:
        Shoemake 1985, "Animating rotation with quaternion curves",
        https://doi.org/10.1145/325165.325242 (slerp). Wortsman et al. 2022, "Model soups",
        https://arxiv.org/abs/2203.05482 (linear). Ilharco et al. 2022, "Editing Models with Task
        Arithmetic", https://arxiv.org/abs/2212.04089, section 2.
    """
    match method:
        case Slerp(weight=weight):
            return slerp_coefficients(cosine, weight)
        case Linear(weights=weights, normalize=normalize):
            found = weights or [1.0] * num_models
            # Without weights a plain sum would be of no use.
            total = sum(found) if normalize or weights is None else 1.0
            return tuple(weight / total for weight in found)
        case TaskArithmetic(weights=weights):
            found = weights or [1.0] * (num_models - 1)
            return (1 - sum(found), *found)
        case unknown:
            assert_never(unknown)


def is_on_one_line(cosine: float | None) -> bool:
    """Whether two tensors have no arc between them: parallel, opposite, or one of them is zero."""
    return cosine is None or abs(cosine) > PARALLEL


def slerp_coefficients(cosine: float | None, weight: float) -> tuple[float, float]:
    """The two weights of spherical interpolation; those of linear interpolation on one line.

    Tensors keep their norms: the formula is applied to them as they are, not to unit vectors. Of two
    with one norm the result has that norm too; of others it lies between the two where the angle is
    small, and need not where it is large.
    """
    if cosine is None or is_on_one_line(cosine):
        return 1 - weight, weight
    angle = math.acos(cosine)
    return (
        math.sin((1 - weight) * angle) / math.sin(angle),
        math.sin(weight * angle) / math.sin(angle),
    )


def cosine(first: Float[Tensor, "*shape"], second: Float[Tensor, "*shape"]) -> float | None:
    """Of the angle between two tensors, as vectors; None where one of them is zero."""
    norms = math.sqrt(_dot(first, first)) * math.sqrt(_dot(second, second))
    return None if norms == 0 else max(-1.0, min(1.0, _dot(first, second) / norms))


def weighted_sum(
    tensors: Sequence[Float[Tensor, "*shape"]], weights: Sequence[float]
) -> Float[Tensor, "*shape"]:
    """Their sum, each multiplied by its weight.

    Those of weight 0 are left out, so that with 1 and 0 the one comes out bit for bit.
    """
    total: Tensor | None = None
    for tensor, weight in zip(tensors, weights, strict=True):
        if weight != 0:
            total = tensor * weight if total is None else total.add_(tensor, alpha=weight)
    return torch.zeros_like(tensors[0]) if total is None else total


def _dot(first: Tensor, second: Tensor) -> float:
    # Chunk by chunk: a float64 copy of a whole tensor would take as much memory as two tensors.
    pairs = zip(first.flatten().split(CHUNK), second.flatten().split(CHUNK), strict=True)
    return sum(float(torch.dot(a.double(), b.double())) for a, b in pairs)
