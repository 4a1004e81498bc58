"""Perplexity: how well a model predicts the tokens of a text, window by window."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmkd.data.kinds import collator_for, tokenizing_for
from llmkd.evaluation.budgets import LOGITS_AT_ONCE, POSITIONS_AT_ONCE
from llmkd.evaluation.details import Bin
from llmkd.evaluation.kept import Kept
from llmkd.evaluation.measured import refuse_nan
from llmkd.evaluation.reliability import Reliability
from llmkd.evaluation.windows import Window, windows_of
from llmkd.losses.divergences import IGNORED_ID
from llmkd.models.head import MODEL_INPUTS
from llmkd.models.kinds import is_seq2seq
from llmkd.models.positions import check_positions
from llmkd.progress import Progress
from llmkd.recipe.evaluation import PerplexityTask


@dataclass(frozen=True)
class ScoredText:
    """Every example's loss and length, and how sure the model was."""

    losses: Float[np.ndarray, " examples"]
    """Summed negative log-likelihood, in nats."""
    counts: Float[np.ndarray, " examples"]
    """Scored tokens."""
    num_bytes: Float[np.ndarray, " examples"]
    """UTF-8 bytes of the text that was scored; 0 of completions."""
    num_words: Float[np.ndarray, " examples"]
    """Words of it, which white space parts."""
    bins: list[Bin]
    """Of all scored tokens."""


def score_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: PerplexityTask,
    *,
    batch_size: int,
    seed: int,
    progress: Progress,
    kept: Kept | None = None,
) -> ScoredText:
    """Scores every token from those before it.

    An example is a row, or a window where rows are joined.

    Args:
        model: In evaluation mode.
        tokenizer: The model's.
        task: The rows, the window, and whether to join rows.
        batch_size: Most windows scored together; fewer where the vocabulary is large.
        seed: Of the rows, where they are made rather than read.
        progress: Called with (done, total) windows.
        kept: What is there already of each batch of windows; the others are added to it.

    Raises:
        InputError: No text, or more tokens in a window than the model has positions.
    """
    tokenizing = tokenizing_for(model.config, model.name_or_path or "model")
    windows = list(windows_of(task, tokenizer, seed=seed, tokenizing=tokenizing))
    longest = max(num_read(window, model) for window in windows)
    check_positions(model, longest, f"tasks.{task.name}.data.max_length")
    num_examples = windows[-1].example + 1
    losses, counts, num_bytes, num_words = np.zeros((4, num_examples))
    collate = collator_for(model.config, tokenizer)
    kept = Kept(None, {}) if kept is None else kept
    reliability, num_done = Reliability(), 0
    batches = batches_of(windows, batch_size, model.config.get_text_config().vocab_size)
    for number, batch in enumerate(batches):
        if not kept.has_all([number]):
            rows = [{"input_ids": w.input_ids, "trained_spans": w.scored_spans} for w in batch]
            of_batch = Reliability()
            found = row_losses(model, inputs_of(collate(rows), model), of_batch)
            refuse_nan(found, task.name)
            kept.add({number: {"losses": found, "reliability": of_batch.as_data()}})
        answer = kept.answers[number]
        reliability.add_data(answer["reliability"])
        for window, loss in zip(batch, answer["losses"], strict=True):
            losses[window.example] += loss
            counts[window.example] += window.num_scored
            num_bytes[window.example] += window.num_bytes
            num_words[window.example] += window.num_words
        num_done += len(batch)
        progress(num_done, len(windows))
    return ScoredText(losses, counts, num_bytes, num_words, reliability.bins())


def num_read(window: Window, model: PreTrainedModel) -> int:
    """Tokens that the model reads at once; an encoder and a decoder each read their own."""
    if is_seq2seq(model.config):
        return max(len(window.input_ids) - window.num_scored, window.num_scored)
    return window.num_read


def inputs_of(batch: dict[str, Tensor], model: PreTrainedModel) -> dict[str, Tensor]:
    """A collated batch as a model takes it, on its device."""
    if not is_seq2seq(model.config):
        # The last column predicts nothing, and would be one position more than the window has.
        batch = {name: tensor[:, :-1] for name, tensor in batch.items()}
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


@torch.inference_mode()
def row_losses(
    model: PreTrainedModel, batch: dict[str, Tensor], reliability: Reliability
) -> list[float]:
    """The summed loss of each row, in nats.

    Args:
        model: In evaluation mode.
        batch: As `inputs_of` gives it.
        reliability: How sure the model was of the scored tokens is added to it.
    """
    inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
    logits, targets = model(**inputs, use_cache=False).logits, batch["target_ids"]
    chunks = zip(
        logits.flatten(0, 1).split(POSITIONS_AT_ONCE),
        targets.flatten().split(POSITIONS_AT_ONCE),
        strict=True,
    )
    losses = [_chunk_losses(logits, targets, reliability) for logits, targets in chunks]
    return torch.cat(losses).view_as(targets).double().sum(1).tolist()


def _chunk_losses(
    logits: Float[Tensor, "P V"], targets: Int[Tensor, " P"], reliability: Reliability
) -> Float[Tensor, " P"]:
    # Both steps of a cross-entropy: the logarithms are needed for the favourite's probability too.
    logprobs = F.log_softmax(logits.float(), dim=1)
    favourite = logprobs.max(1)
    is_scored = targets != IGNORED_ID
    reliability.add(
        favourite.values[is_scored].exp().cpu().numpy(),
        (favourite.indices == targets)[is_scored].cpu().numpy(),
    )
    return F.nll_loss(logprobs, targets, ignore_index=IGNORED_ID, reduction="none")


def batches_of(windows: list[Window], batch_size: int, vocab_size: int) -> Iterator[list[Window]]:
    """Windows of like length together, longest first."""
    batch: list[Window] = []
    for window in sorted(windows, key=lambda window: -window.num_read):
        longest = batch[0].num_read if batch else 0
        is_full = len(batch) == batch_size
        if batch and (is_full or (len(batch) + 1) * longest * vocab_size > LOGITS_AT_ONCE):
            yield batch
            batch = []
        batch.append(window)
    yield batch
