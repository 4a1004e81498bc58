"""What a model says of N positions, in the forms that the objective takes.

A language model gives its hidden states and its head, so that its logits need never stand in memory
all at once; a classifier gives its few logits as they are; a stored teacher gives a few tokens'
log-probabilities.

Shapes: N positions, V vocabulary (of a classifier: labels), H hidden size, K stored tokens.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
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


@dataclass(frozen=True)
class TopKLogits:
    """The K tokens that a teacher finds likeliest, and the mass of all others.

    Args:
        token_ids: Different tokens at each position.
        log_probs: Theirs, at `temperature`.
        tail_log_prob: Of all other tokens together; -inf where K is the whole vocabulary.
        label_log_prob: Of the token that each position predicts, at temperature 1; 0 where none is.
        temperature: Divided the teacher's logits. How the tail splits is lost, so what was stored at
            one temperature serves no other.
    """

    token_ids: Int[Tensor, "n k"]
    log_probs: Float[Tensor, "n k"]
    tail_log_prob: Float[Tensor, " n"]
    label_log_prob: Float[Tensor, " n"]
    temperature: float = 1.0


@dataclass(frozen=True)
class SampledLogits:
    """Tokens drawn from a teacher, weighted so that they stand for its whole distribution.

    Args:
        token_ids: Drawn with replacement; a token may come more than once.
        weights: The expected sum of the weights of token v is its probability: of K plain draws, 1/K
            each. Padding has weight 0.
        entropy: Of the teacher's distribution, at `temperature`, in nats.
        label_log_prob: As in `TopKLogits`.
        temperature: Divided the teacher's logits.
    """

    token_ids: Int[Tensor, "n k"]
    weights: Float[Tensor, "n k"]
    entropy: Float[Tensor, " n"]
    label_log_prob: Float[Tensor, " n"]
    temperature: float = 1.0


SparseLogits = TopKLogits | SampledLogits
Signals = LinearHead | DenseLogits | SparseLogits


def num_positions(signals: Signals) -> int:
    """N."""
    match signals:
        case LinearHead(hidden=rows) | DenseLogits(logits=rows):
            return len(rows)
        case TopKLogits(token_ids=rows) | SampledLogits(token_ids=rows):
            return len(rows)


def sparse_rows(signals: SparseLogits, rows: slice) -> SparseLogits:
    """The stored tokens of some positions."""
    tensors = {name: x[rows] for name, x in vars(signals).items() if isinstance(x, Tensor)}
    return replace(signals, **tensors)


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


def logits_of(
    signals: LinearHead | DenseLogits,
    rows: Int[Tensor, " rows"],
    compute_dtype: torch.dtype | None = None,
) -> Float[Tensor, "rows vocab"]:
    """All logits of a few positions, in float32 (float64 stays float64), with their gradient.

    Args:
        signals: Of N positions.
        rows: Which of them.
        compute_dtype: Of the head's matrix product; None takes `product_dtype`.
    """
    if isinstance(signals, DenseLogits):
        return signals.logits[rows].to(wide(signals.logits.dtype))
    dtype = compute_dtype or product_dtype(signals)
    bias = None if signals.bias is None else signals.bias.to(dtype)
    with torch.autocast(signals.hidden.device.type, enabled=False):
        products = F.linear(signals.hidden[rows].to(dtype), signals.weight.to(dtype), bias)
        return head_logits(signals, products)


def head_products(
    head: LinearHead, rows: slice, out: Float[Tensor, "rows vocab"] | None = None
) -> Float[Tensor, "rows vocab"]:
    """`hidden @ weight.T + bias` of some positions, in the weights' own type."""
    hidden, weight = head.hidden[rows], head.weight.T
    if head.bias is None:
        return torch.mm(hidden, weight, out=out)
    return torch.addmm(head.bias, hidden, weight, out=out)


def head_logits(
    head: LinearHead, products: Float[Tensor, "rows vocab"]
) -> Float[Tensor, "rows vocab"]:
    """From `head_products` to logits: the head's scale and soft cap, in float32 (or float64)."""
    products = products.to(wide(products.dtype))
    logits = products if head.scale == 1 else products * head.scale
    return logits if head.soft_cap is None else head.soft_cap * (logits / head.soft_cap).tanh()


def back_through_head(
    head: LinearHead, logits: Float[Tensor, "rows vocab"], gradient: Float[Tensor, "rows vocab"]
) -> Float[Tensor, "rows vocab"]:
    """From the gradient of `head_logits` to that of its products; changes `gradient`."""
    if head.soft_cap is not None:
        gradient.mul_(1 - (logits / head.soft_cap).square())
    return gradient if head.scale == 1 else gradient.mul_(head.scale)


def product_dtype(head: LinearHead) -> torch.dtype:
    """What a head's product is computed in: autocast's type where that is on, else the tensors'."""
    device = head.hidden.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return torch.promote_types(head.hidden.dtype, head.weight.dtype)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The precision of divergences and of gradients' sums: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32
