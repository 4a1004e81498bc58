"""A language model up to its output head: the hidden states and the head, without the logits.

What is to be made of the hidden states is made in the head's own forward pass, in the place of the
logits. So every architecture that transformers names an output embedding for is covered, with its own
final norm and scaling. Engines that keep each weight in parts, on several devices (ZeRO-3, FSDP2),
gather them around the forward pass of the module that owns them, and take their gradients apart again
by hooks on what it and the whole model return: there the head's weights are whole.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmkd.errors import InputError
from llmkd.losses.signals import LinearHead, crop
from llmkd.models.kinds import is_seq2seq

MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids", "decoder_input_ids")


def output_head(model: PreTrainedModel) -> nn.Linear:
    """The layer that turns hidden states into logits.

    Raises:
        InputError: The model has none, or one that is no plain linear layer.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise InputError(
            f"{type(model).__name__} has {type(head).__name__} as its output head, which the "
            "chunked head cannot read; use a language model with a linear head, and leave "
            "the head out of `lora.target_modules`"
        )
    return head


def inside_head(
    model: PreTrainedModel,
    forward: Callable[..., object],
    batch: dict[str, Tensor],
    compute: Callable[[Tensor], Tensor],
) -> Tensor:
    """What `compute` makes of the head's input, [B, T, H], while the head's weights are there whole.

    Args:
        model: The unwrapped model, whose head does it.
        forward: What to call: the model, or DDP's or DeepSpeed's wrapper around it.
        batch: `input_ids`, and `attention_mask` or, of packed sequences, `position_ids`, [B, T];
            of a seq2seq model `input_ids` and `attention_mask` [B, S], `decoder_input_ids` [B, T].
        compute: Gradients may flow through it to the hidden states and the head's weights.
    """
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    with _in_place_of_head(model, compute):
        result = forward(**inputs, use_cache=False)
    assert isinstance(result, Tensor)
    return result


def hidden_states(
    model: PreTrainedModel, forward: Callable[..., object], batch: dict[str, Tensor]
) -> Tensor:
    """What goes into the model's output head, [B, T, H]; the arguments are `inside_head`'s."""
    return inside_head(model, forward, batch, lambda hidden: hidden)


def linear_head(
    model: PreTrainedModel, hidden: Tensor, vocab_size: int | None = None
) -> LinearHead:
    """The model's output head over chosen positions.

    Args:
        model: The unwrapped model; gradients flow to its head unless it is frozen.
        hidden: Head inputs, [N, H].
        vocab_size: Keep only the first so many tokens: the tokenizer's, without padded rows.
    """
    head = output_head(model)
    config = model.config.get_text_config()
    whole = LinearHead(
        hidden=hidden,
        weight=head.weight,
        bias=_bias(model, head),
        scale=_logit_scale(config),
        soft_cap=getattr(config, "final_logit_softcapping", None),
    )
    return whole if vocab_size is None else crop(whole, vocab_size)


def check_head(model: PreTrainedModel, name: str) -> None:
    """Refuses a model whose logits are not what its output head makes of its hidden states.

    Compares both on a few tokens, so that an architecture that does more after its head than
    `linear_head` knows of cannot be distilled wrongly in silence.

    Args:
        model: The unwrapped model.
        name: What the message calls it: `student` or `teacher`.

    Raises:
        InputError: The model has other logits, logits that are not finite, or no linear head.
    """
    ids = torch.arange(4, device=output_head(model).weight.device)[None] % model.config.vocab_size
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if is_seq2seq(model.config):
        batch["decoder_input_ids"] = ids
    was_training = model.training
    model.eval()
    with torch.no_grad():
        expected = model(**batch, use_cache=False).logits[0].float()
        head = linear_head(model, hidden_states(model, model, batch)[0])
        ours = head.logits()
    model.train(was_training)
    if not expected.isfinite().all():
        raise InputError(
            f"{name}: the model's logits are not finite ({expected.min():g} to {expected.max():g}); "
            "its weights are broken, or too large for its dtype: write dtype: float32, or another "
            "model"
        )
    if not torch.allclose(ours, expected, atol=1e-2, rtol=1e-2):
        raise InputError(
            f"{name}: the logits of {type(model).__name__} are not those of its output head "
            f"(difference up to {(ours - expected).abs().max():.3g}); this architecture transforms "
            "them in a way that llmkd does not know yet: please report it"
        )


@contextmanager
def _in_place_of_head(
    model: PreTrainedModel, compute: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """The head's forward pass is `compute`, and what it returns is what the model returns."""
    head = output_head(model)
    results: list[Tensor] = []

    def catch(_: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> Tensor:
        results.append(result)
        # Models may scale or cap what they take for logits.
        return args[0].new_zeros(len(args[0]), 1, head.out_features)

    def hand_out(*_: object) -> Tensor:
        (result,) = results
        return result

    # An engine's own hooks see the result: on the head before ours, on the model after ours.
    handles = [
        head.register_forward_hook(catch),
        model.register_forward_hook(hand_out, prepend=True),
    ]
    own = vars(head).get("forward")
    # Compiled with the model, it would be compiled again for every number of positions.
    head.forward = torch.compiler.disable(compute)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        del head.forward
        if own is not None:
            head.forward = own
        for handle in handles:
            handle.remove()


def _bias(model: PreTrainedModel, head: nn.Linear) -> Tensor | None:
    # BART and its kin add a fixed bias [1, V] to what their heads give.
    fixed = getattr(model, "final_logits_bias", None)
    if fixed is None:
        return head.bias
    return fixed[0] if head.bias is None else head.bias + fixed[0]


def _logit_scale(config: object) -> float:
    # Cohere multiplies its logits, Granite divides them.
    multiplier = getattr(config, "logit_scale", None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0
    return float(multiplier) / float(divisor)
