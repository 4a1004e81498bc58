"""A model folder, as stages make them: whole weights, tokenizer, model card."""

import shutil
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmkd.training.checkpoints import publish, removed_on_failure

MODEL, CARD = "model", "README.md"
"""The product's folder inside a stage's, and the model card's file inside that."""


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, card: str, folder: Path
) -> None:
    """Writes `model/` of a stage's folder; it appears whole, by a rename.

    Args:
        model: With its generation config.
        tokenizer: The model's.
        card: The model card, in Markdown.
        folder: The stage's.
    """
    staged = folder / f".{MODEL}"
    shutil.rmtree(staged, ignore_errors=True)  # By an attempt that was killed.
    with removed_on_failure(staged):
        model.save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        (staged / CARD).write_text(card)
        publish(staged, folder / MODEL)
