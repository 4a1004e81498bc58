"""What a model says of given tokens, without `[batch, time, vocab]` in memory."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llmkd.losses.closed_form import CROSS_ENTROPY
from llmkd.losses.divergences import IGNORED_ID
from llmkd.losses.linear_head import divergence_from_hidden
from llmkd.losses.signals import LinearHead
from llmkd.losses.terms import HeadTerm


@torch.no_grad()
def token_logprobs(
    head: LinearHead, token_ids: Int[Tensor, " n"], *, temperature: float = 1.0
) -> Float[Tensor, " n"]:
    """The log-probability of one token per position, chunk by chunk.

    Args:
        head: Of the model.
        token_ids: The tokens that the positions predict. One beyond the head's rows, which may be a
            padded row of another model, is ruled out: -inf.
        temperature: Divides the logits.

    Returns:
        float32 (float64 stays float64).
    """
    is_known = token_ids < len(head.weight)
    output = divergence_from_hidden(
        head,
        None,
        token_ids.where(is_known, IGNORED_ID),
        [HeadTerm("nll", CROSS_ENTROPY, temperature)],
        torch.zeros(1, len(token_ids), device=token_ids.device),
    )
    return (-output.values[0]).where(is_known, -torch.inf)
