"""What a model says of N positions, in the forms that the objective takes.

A language model gives its hidden states and its head, so that its logits need never stand in memory
all at once; a classifier gives its few logits as they are.

Shapes: N positions, V vocabulary (of a classifier: labels), H hidden size.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class DenseLogits:
    """A classifier's logits."""

    logits: Float[Tensor, "n vocab"]


@dataclass(frozen=True)
class LinearHead:
    """A model's last step, not yet taken: hidden states, and what turns them into logits.

    `logits = soft_cap * tanh(scale * (hidden @ weight.T + bias) / soft_cap)`, without the tanh where
    there is no soft cap. Cohere multiplies its logits by a scale, Gemma 2 soft-caps them.
    """

    hidden: Float[Tensor, "n hidden"]
    weight: Float[Tensor, "vocab hidden"]
    bias: Float[Tensor, " vocab"] | None = None
    scale: float = 1.0
    soft_cap: float | None = None

    def logits(self) -> Float[Tensor, "n vocab"]:
        """All logits at once, in float32 (float64 stays float64): for few positions only."""
        return head_logits(self, head_products(self, slice(None)))


def crop(head: LinearHead, vocab_size: int) -> LinearHead:
    """The head without the rows that only pad its vocabulary.

    Weight and bias become views, so the gradient reaches the full parameters, as zeros in the rows
    left out.

    Raises:
        ValueError: The head has fewer rows than that.
    """
    if vocab_size > len(head.weight):
        raise ValueError(f"cannot crop a head of {len(head.weight)} rows to {vocab_size}")
    bias = None if head.bias is None else head.bias[:vocab_size]
    return replace(head, weight=head.weight[:vocab_size], bias=bias)


def head_products(head: LinearHead, rows: slice | Tensor) -> Float[Tensor, "rows vocab"]:
    """`hidden @ weight.T + bias` of some positions, in float32 (float64 stays float64)."""
    products = F.linear(head.hidden[rows], head.weight, head.bias)
    return products.to(wide(products.dtype))


def head_logits(
    head: LinearHead, products: Float[Tensor, "rows vocab"]
) -> Float[Tensor, "rows vocab"]:
    """From `head_products` to logits: the head's scale and soft cap."""
    logits = products if head.scale == 1 else products * head.scale
    return logits if head.soft_cap is None else head.soft_cap * (logits / head.soft_cap).tanh()


def wide(dtype: torch.dtype) -> torch.dtype:
    """The precision of divergences and of gradients' sums: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32
