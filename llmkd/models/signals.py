"""What a model says of a batch, in the form that the objective takes: the same for both models."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from llmkd.losses.signals import DenseLogits, LinearHead
from llmkd.models.head import hidden_states, inside_head, linear_head

CLASSIFIER_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def is_classifier(model: PreTrainedModel) -> bool:
    """Whether the model gives one row of logits per sequence: a sequence classifier does."""
    return model.get_output_embeddings() is None


def classifier_inputs(model: PreTrainedModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What of a batch a classifier reads: not every one tells the two texts of a pair apart."""
    base: Any = getattr(model, "get_base_model", lambda: model)()
    has_types = (
        "token_type_ids" in inspect.signature(base.forward).parameters
        and getattr(base.config, "type_vocab_size", 1) > 1
    )
    names = CLASSIFIER_INPUTS if has_types else CLASSIFIER_INPUTS[:-1]
    return {name: batch[name] for name in names if name in batch}


def signals(
    model: PreTrainedModel,
    forward: Callable[..., object],
    batch: dict[str, Tensor],
    kept: Tensor,
    vocab_size: int,
) -> LinearHead | DenseLogits:
    """The model's predictions at the kept positions, in their order.

    Args:
        model: The unwrapped model.
        forward: What to call: the model, or DDP's or DeepSpeed's wrapper around it.
        batch: As `llmkd.data.collate` makes it, with `target_ids` [B, T]; of a classifier [B].
        kept: Which positions to answer for, boolean, the shape of `target_ids`; N of them.
        vocab_size: Tokens that student and teacher share; of a classifier, the labels.

    Returns:
        A language model's head over [N, H]; a classifier's logits [N, vocab_size].
    """
    if not is_classifier(model):
        hidden = hidden_states(model, forward, batch)
        return linear_head(model, hidden[kept], vocab_size)
    output = forward(**classifier_inputs(model, batch))
    return DenseLogits(output.logits[kept])  # pyright: ignore[reportAttributeAccessIssue]


def from_signals(
    model: PreTrainedModel,
    forward: Callable[..., Any],
    batch: dict[str, Tensor],
    kept: Tensor,
    vocab_size: int,
    compute: Callable[[LinearHead | DenseLogits], Tensor],
) -> Tensor:
    """What `compute` makes of the model's `signals`, with gradients for all weights.

    A language model's head is whole only while `compute` runs: engines may keep it in parts. The
    arguments are those of `signals`.
    """
    if is_classifier(model):
        return compute(signals(model, forward, batch, kept, vocab_size))
    return inside_head(
        model,
        forward,
        batch,
        lambda hidden: compute(linear_head(model, hidden[kept], vocab_size)),
    )
