"""Accuracy: how often a classifier's favourite label is the right one."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmkd.data.classification import (
    EncodedRow,
    LabelCollator,
    encode,
    labelled_rows,
    max_length_of,
)
from llmkd.data.labels import chosen_labels, given_labels, label_ids, names_in_config
from llmkd.data.sources import Row
from llmkd.evaluation.details import Bin, Sample
from llmkd.evaluation.reliability import Reliability
from llmkd.evaluation.statistics import Bootstrap, bootstrap, one_by_one
from llmkd.models.classifiers import fit_to
from llmkd.models.positions import check_positions
from llmkd.models.signals import classifier_inputs
from llmkd.progress import Progress, say
from llmkd.recipe.evaluation import AccuracyTask

NUM_SAMPLES = 8
"""Texts that are kept to be read."""


@dataclass(frozen=True)
class ScoredLabels:
    """Every example's label and the model's favourite, and how sure it was."""

    label_ids: Int[np.ndarray, " examples"]
    favourites: Int[np.ndarray, " examples"]
    bins: list[Bin]
    samples: list[Sample]
    """The first examples."""

    @property
    def is_right(self) -> Float[np.ndarray, " examples"]:
        """1 for every example whose label the model found, else 0."""
        return (self.label_ids == self.favourites).astype(float)


def score_labels(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: AccuracyTask,
    *,
    batch_size: int,
    seed: int,
    progress: Progress,
) -> ScoredLabels:
    """Asks a classifier for every row's label.

    Args:
        model: A classifier in evaluation mode.
        tokenizer: The model's.
        task: The rows.
        batch_size: Rows read together.
        seed: Decides what a procedural task makes; every model gets the same.
        progress: Called with (done, total) rows.

    Raises:
        InputError: Rows that cannot be used, or whose labels the model does not have.
    """
    fit_to(model, tokenizer, f"tasks.{task.name}: the model")
    rows = labelled_rows(task.data, seed=seed)
    given, found = given_labels(task.data), {row["label"] for row in rows}
    names = chosen_labels(given, names_in_config(model.config.to_dict()), None, found)
    ids = label_ids(names, is_given=given is not None)
    encoded = encode(rows, tokenizer, max_length_of(task.data))
    if num_cut := sum(row.num_cut > 0 for row in encoded):
        say(f"{task.name}: {num_cut} of {len(rows)} rows were cut to {max_length_of(task.data)}")
    longest = max(len(row.inputs["input_ids"]) for row in encoded)
    check_positions(model, longest, f"tasks.{task.name}.data.max_length")
    reliability, favourites = Reliability(), np.empty(len(rows), np.int64)
    gold = np.array([ids[row["label"]] for row in rows])
    # Rows of like length together, so that little is padding.
    order = sorted(range(len(rows)), key=lambda i: -len(encoded[i].inputs["input_ids"]))
    for start in range(0, len(rows), batch_size):
        batch = order[start : start + batch_size]
        probabilities = _probabilities(model, tokenizer, [encoded[i] for i in batch])
        favourites[batch] = probabilities.argmax(1)
        reliability.add(probabilities.max(1), favourites[batch] == gold[batch])
        progress(start + len(batch), len(rows))
    samples = _samples(rows, names, gold, favourites)
    return ScoredLabels(gold, favourites, reliability.bins(), samples)


def macro_f1(
    label_ids: Int[np.ndarray, " examples"], favourites: Int[np.ndarray, " examples"]
) -> float:
    """The mean over labels of 2 TP / (2 TP + FP + FN), 0 to 1: every label counts the same.

    Over the labels that occur among the rows' or the favourites.

    Example:
        >>> float(macro_f1(np.array([0, 0, 1]), np.array([0, 1, 1])))  # both 2 / 3
        0.6666666666666666
    """
    num_labels = 1 + max(label_ids.max(), favourites.max())
    hits, wanted, given = (
        np.bincount(ids, minlength=num_labels)
        for ids in (label_ids[label_ids == favourites], label_ids, favourites)
    )
    occurs = wanted + given > 0
    return float((2 * hits[occurs] / (wanted + given)[occurs]).mean())


def bootstrap_macro_f1(scored: ScoredLabels, *, seed: int) -> Bootstrap:
    """`macro_f1` over examples."""
    gold, favourites = scored.label_ids, scored.favourites
    statistic = one_by_one(lambda chosen: macro_f1(gold[chosen], favourites[chosen]))
    return bootstrap(statistic, len(gold), seed=seed)


@torch.inference_mode()
def _probabilities(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[EncodedRow]
) -> Float[np.ndarray, "rows labels"]:
    pad_token_id = tokenizer.pad_token_id
    assert isinstance(pad_token_id, int)
    batch = LabelCollator(pad_token_id)([{**row.inputs, "label_id": 0} for row in rows])
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    logits = model(**classifier_inputs(model, batch)).logits
    return logits.float().softmax(1).cpu().numpy()


def _samples(
    rows: list[Row],
    names: list[str],
    gold: Int[np.ndarray, " examples"],
    favourites: Int[np.ndarray, " examples"],
) -> list[Sample]:
    return [
        Sample(
            example=i,
            prompt=" | ".join(row[name] for name in ("text", "text_pair") if name in row),
            reference=names[gold[i]],
            text=names[favourites[i]],
            num_tokens=None,
            is_right=bool(gold[i] == favourites[i]),
        )
        for i, row in enumerate(rows[:NUM_SAMPLES])
    ]
