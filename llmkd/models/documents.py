"""Packed sequences: does a model keep the documents of one sequence apart?"""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llmkd.errors import InputError
from llmkd.models.head import hidden_states, output_head

Collate = Callable[[list[dict[str, list[int]]]], dict[str, Tensor]]


def is_flash(model: PreTrainedModel) -> bool:
    """Whether the model runs on flash attention, which tells documents apart in one row only."""
    return "flash" in (model.config._attn_implementation or "")


def check_documents_apart(model: PreTrainedModel, collate: Collate, name: str) -> None:
    """Refuses a model in which a token of a packed sequence sees another document.

    The second document of a sequence must come out the same whatever the first one is, and as it
    does by itself.

    Args:
        model: The unwrapped model.
        collate: Makes the batches that the model will get.
        name: What the message calls it: `student` or `teacher`.

    Raises:
        InputError: The documents are not kept apart.
    """
    second = [5, 6, 7, 8]
    # In two sequences, as in training: some kernels tell documents apart in a single one only.
    runs = [
        _hidden(model, collate, [[first, second], [second, first]])[len(first) :][: len(second)]
        for first in ([1, 2, 3], [4, 3, 2])
    ]
    alone = _hidden(model, collate, [[second]])[: len(second)]
    scale = alone.abs().max()
    noise = 1e-5 if alone.dtype == torch.float32 else 2e-2
    is_seen = (runs[0] - runs[1]).abs().max() > noise * scale
    if is_seen or (runs[0] - alone).abs().max() > max(noise, 1e-2) * scale:
        raise InputError(
            f"data.packing: in {type(model).__name__} ({name}) a packed document sees the one before "
            "it; write packing: false, or another attn_implementation"
        )


@torch.no_grad()
def _hidden(model: PreTrainedModel, collate: Collate, rows: list[list[list[int]]]) -> Tensor:
    """Of the first row; a flat batch has no other."""
    vocab_size = model.config.get_text_config().vocab_size
    batch = collate(
        [
            {
                "input_ids": [token % vocab_size for ids in documents for token in ids],
                "trained_spans": [],
                "document_lengths": [len(ids) for ids in documents],
            }
            for documents in rows
        ]
    )
    device = output_head(model).weight.device
    was_training = model.training
    model.eval()
    hidden = hidden_states(model, model, {key: value.to(device) for key, value in batch.items()})
    model.train(was_training)
    return hidden[0]
