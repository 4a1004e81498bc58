"""Sequence classifiers: one row of logits per sequence, from a head on an encoder (or a decoder)."""

from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from llmkd.data.labels import names_in_config
from llmkd.errors import InputError
from llmkd.models.agreement import too_few_embeddings
from llmkd.models.load import LOAD_ERRORS, attention_of, config_of, dtype_of, not_loadable
from llmkd.models.positions import num_skipped
from llmkd.recipe.models import PretrainedModel


def labels_in(source: PretrainedModel) -> list[str]:
    """The labels of a checkpoint, in the order of its outputs, from its configuration alone.

    Raises:
        InputError: Nothing loadable is there.
    """
    return names_in_config(config_of(source).to_dict())


def load_classifier(source: PretrainedModel, labels: list[str] | None = None) -> PreTrainedModel:
    """A classifier from a folder or the hub.

    Args:
        source: Where it is.
        labels: Those of a student: a head that is missing, or has another number of outputs, is
            made anew, from torch's global random state. None keeps the checkpoint's own.

    Raises:
        InputError: Nothing loadable is there, or, without `labels`, no head was trained.
    """
    changes = {} if labels is None else {**head_config(labels), "ignore_mismatched_sizes": True}
    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            source.model_name_or_path,
            revision=source.revision,
            dtype=dtype_of(source),
            output_loading_info=True,
            **attention_of(source.attn_implementation),
            **changes,
        )
    except LOAD_ERRORS as error:
        raise not_loadable("classifier", source.model_name_or_path, error) from error
    if labels is None and found["missing_keys"]:
        raise InputError(
            f"{source.model_name_or_path}: is no trained classifier, as "
            f"{', '.join(sorted(found['missing_keys'])[:2])} are not there; write a model that a "
            "stage with data.kind: classification made, or a folder of a ...ForSequenceClassification"
        )
    return model


def head_config(labels: list[str]) -> dict[str, Any]:
    """The fields of a configuration that name a classifier's outputs."""
    names = dict(enumerate(labels))
    ids = {name: i for i, name in names.items()}
    return {"num_labels": len(labels), "id2label": names, "label2id": ids}


def fit_to(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuses a classifier that its tokenizer or the objective does not fit.

    Args:
        model: Gets the tokenizer's padding token: a decoder's head looks for the last token before
            it. RoBERTa and its kin keep their own, as they count positions from it.
        tokenizer: What makes its batches.
        name: What the message calls it: `student` or `teacher`.

    Raises:
        InputError: Too few embeddings, several labels per text, or logits that are not finite.
    """
    if not num_skipped(model):
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    num_rows = model.get_input_embeddings().weight.shape[0]  # pyright: ignore
    vocab_size = max(tokenizer.get_vocab().values()) + 1
    if problem := too_few_embeddings(int(num_rows), vocab_size, name):
        raise InputError(problem)
    kind = model.config.problem_type
    if kind not in (None, "single_label_classification"):
        raise InputError(
            f"{name}: its configuration says problem_type: {kind}, and llmkd distils classifiers "
            "with one label per text; write another model"
        )
    _refuse_infinite(model, name)


@torch.no_grad()
def _refuse_infinite(model: PreTrainedModel, name: str) -> None:
    was_training = model.training
    ids = torch.arange(4, device=model.device)[None] % model.config.get_text_config().vocab_size
    logits = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    model.train(was_training)
    if not logits.isfinite().all():
        raise InputError(
            f"{name}: the model's logits are not finite; its weights are broken, or too large for "
            "its dtype: write dtype: float32, or another model"
        )
