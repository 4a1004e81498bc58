"""What a classifier answers to rows: its logits, kept as they come."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmkd.data.classification import EncodedRow, LabelCollator, encode, max_length_of
from llmkd.data.sources import Row
from llmkd.errors import InputError
from llmkd.evaluation.measured import Setting
from llmkd.evaluation.subject import Subject
from llmkd.models.classifiers import fit_to
from llmkd.models.positions import check_positions
from llmkd.models.signals import classifier_inputs
from llmkd.progress import say
from llmkd.recipe.classification import ClassifierTask
from llmkd.recipe.data import LabelledRows, Task, is_regression
from llmkd.run_folder import fingerprint


def encoded_for(
    subject: Subject, rows: Sequence[Row], source: Task | LabelledRows, place: str
) -> list[EncodedRow]:
    """Rows as a classifier reads them; how many were cut is said.

    Args:
        subject: The classifier.
        rows: With `text`, and perhaps `text_pair`.
        source: Where they come from.
        place: What messages call it.

    Raises:
        InputError: A model that its tokenizer does not fit, or longer rows than it has positions for.
    """
    fit_to(
        subject.model,
        subject.tokenizer,
        f"{place}: the model",
        is_regression=is_regression(source),
    )
    most = max_length_of(source)
    encoded = encode(rows, subject.tokenizer, most)
    if num_cut := sum(row.num_cut > 0 for row in encoded):
        say(f"{place}: {num_cut} of {len(rows)} rows were cut to {most}")
    longest = max(len(row.inputs["input_ids"]) for row in encoded)
    check_positions(subject.model, longest, f"{place}.max_length")
    return encoded


def logits_of_rows(
    subject: Subject, encoded: Sequence[EncodedRow], task: ClassifierTask, setting: Setting
) -> Float[np.ndarray, "rows labels"]:
    """A classifier's logits, in float64; those that are kept already are not asked for again.

    Raises:
        InputError: Some are not finite.
    """
    rows = fingerprint({"rows": [one.inputs for one in encoded]})
    kept = setting.kept(subject, task, rows=rows, batch_size=setting.batch_size)
    # Rows of like length together, so that little is padding.
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i].inputs["input_ids"]))
    for start in range(0, len(order), setting.batch_size):
        batch = order[start : start + setting.batch_size]
        if not kept.has_all(batch):
            found = _logits(subject.model, subject.tokenizer, [encoded[i] for i in batch])
            kept.add({i: {"logits": row} for i, row in zip(batch, found, strict=True)})
        setting.progress(start + len(batch), len(order))
    logits = np.array([answer["logits"] for answer in kept.in_order()], float)
    if num_bad := int((~np.isfinite(logits)).any(1).sum()):
        raise InputError(
            f"tasks.{task.name}: the model's logits of {num_bad} of {len(logits)} rows are not "
            "finite; its weights are broken, or too large for their dtype: write another model"
        )
    return logits


def shown(row: Row) -> str:
    """A row's text, or both of its texts."""
    return " | ".join(row[name] for name in ("text", "text_pair") if name in row)


@torch.inference_mode()
def _logits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[EncodedRow]
) -> list[list[float]]:
    pad_token_id = tokenizer.pad_token_id
    assert isinstance(pad_token_id, int)
    batch = LabelCollator(pad_token_id)([{**row.inputs, "target": 0} for row in rows])
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    return model(**classifier_inputs(model, batch)).logits.float().tolist()
