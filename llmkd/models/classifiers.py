"""Sequence classifiers: one row of logits per sequence, from a head on an encoder (or a decoder)."""

from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from llmkd.data.labels import are_placeholders, has_classifier_head, names_in_config
from llmkd.errors import InputError
from llmkd.models.agreement import too_few_embeddings
from llmkd.models.kinds import is_seq2seq
from llmkd.models.load import attention_of, config_of, dtype_of, rules_of
from llmkd.models.positions import num_skipped
from llmkd.models.refusals import LOAD_ERRORS, not_loadable, refuse_pickles
from llmkd.progress import say
from llmkd.recipe.models import PretrainedModel


def labels_in(source: PretrainedModel) -> list[str]:
    """The labels of a checkpoint, in the order of its outputs, from its configuration alone.

    Raises:
        InputError: Nothing loadable is there.
    """
    return names_in_config(config_of(source).to_dict())


def load_classifier(source: PretrainedModel) -> PreTrainedModel:
    """A trained classifier from a folder or the hub.

    Raises:
        InputError: Nothing loadable is there, or no head was trained.
    """
    model, found = _load(source)
    if found["missing_keys"]:
        raise InputError(
            f"{source.model_name_or_path}: is no trained classifier, as "
            f"{', '.join(sorted(found['missing_keys'])[:2])} are not there; write a model that a "
            "stage with data.kind: classification made, or a folder of a ...ForSequenceClassification"
        )
    return model


def load_student_classifier(
    source: PretrainedModel, labels: list[str]
) -> tuple[PreTrainedModel, list[str]]:
    """A classifier to be trained, with one output per label; with a single one, a regression.

    A trained head is kept where its outputs have no names, or those of the labels: then it is put in
    their order. Another one, and what is missing, is made anew from torch's global random state,
    which is said.

    Returns:
        The model, and the names of its parts that are new though they are in its base: BERT's
        pooler, for instance, which an encoder may come without.

    Raises:
        InputError: Nothing loadable is there, or weights other than the head's do not fit.
    """
    name, config = source.model_name_or_path, config_of(source).to_dict()
    model, found = _load(source, **head_config(labels), ignore_mismatched_sizes=True)
    new = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
    pooler = f"{model.base_model_prefix}.pooler"
    of_base = {key for key in new if key.startswith(f"{model.base_model_prefix}.")}
    if unfit := sorted(key for key in of_base if not key.startswith(f"{pooler}.")):
        raise InputError(
            f"{name}: {', '.join(unfit[:2])} are missing, or have other sizes than its configuration "
            "says; write a folder that save_pretrained made"
        )
    own = names_in_config(config)
    if has_classifier_head(config) and len(own) == len(labels) > 1 and not are_placeholders(own):
        new |= _name_outputs(model, own, labels)
    if new:
        say(f"{name}: new for these labels, and random: {', '.join(sorted(new))}")
    return model, [pooler] if of_base else []


def _load(source: PretrainedModel, **changes: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A classifier, and what was missing."""
    config = config_of(source)
    refuse_pickles(source)
    if is_seq2seq(config):
        raise InputError(
            f"{source.model_name_or_path}: has an encoder and a decoder ({config.model_type}), and a "
            "classifier has one of them; write an encoder such as BERT, or a decoder such as Llama"
        )
    try:
        return AutoModelForSequenceClassification.from_pretrained(
            source.model_name_or_path,
            revision=source.revision,
            dtype=dtype_of(source),
            output_loading_info=True,
            **rules_of(source),
            **attention_of(source.attn_implementation),
            **changes,
        )
    except LOAD_ERRORS as error:
        raise not_loadable("classifier", source.model_name_or_path, error) from error


def head_names(model: PreTrainedModel) -> list[str]:
    """A classifier's parts outside its encoder."""
    return [
        name
        for name, part in model.named_children()
        if name != model.base_model_prefix and any(True for _ in part.parameters())
    ]


def _name_outputs(model: PreTrainedModel, own: list[str], labels: list[str]) -> set[str]:
    """Puts a trained head in the order of the labels, or makes its outputs anew if it has others.

    Returns:
        What is new.
    """
    *_, (name, output) = (
        (f"{head}.{name}".rstrip("."), part)
        for head in head_names(model)
        for name, part in model.get_submodule(head).named_modules()
        if isinstance(part, nn.Linear)
    )
    if set(own) != set(labels):
        output.reset_parameters()
        return {name}
    order = [own.index(label) for label in labels]
    for parameter in output.parameters():
        parameter.data = parameter.data[order]
    return set()


def head_config(labels: list[str]) -> dict[str, Any]:
    """The fields of a configuration that name a classifier's outputs; a single one is a number."""
    names = dict(enumerate(labels))
    ids = {name: i for i, name in names.items()}
    kind = "regression" if len(labels) == 1 else "single_label_classification"
    return {"num_labels": len(labels), "id2label": names, "label2id": ids, "problem_type": kind}


def fit_to(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    *,
    is_regression: bool = False,
) -> None:
    """Refuses a classifier that its tokenizer or the objective does not fit.

    Args:
        model: Gets the tokenizer's padding token: a decoder's head looks for the last token before
            it. RoBERTa and its kin keep their own, as they count positions from it.
        tokenizer: What makes its batches.
        name: What the message calls it: `student` or `teacher`.
        is_regression: Whether it is to give a number, and not one of several labels.

    Raises:
        InputError: Too few embeddings, several labels or numbers per text, a label where a number
            is needed or the other way round, or logits that are not finite.
    """
    if not num_skipped(model):
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    num_rows = model.get_input_embeddings().weight.shape[0]  # pyright: ignore
    vocab_size = max(tokenizer.get_vocab().values()) + 1
    if problem := too_few_embeddings(int(num_rows), vocab_size, name):
        raise InputError(problem)
    _refuse_other_problem(model, name, is_regression=is_regression)
    _refuse_infinite(model, name)


def _refuse_other_problem(model: PreTrainedModel, name: str, *, is_regression: bool) -> None:
    num_outputs, kind = model.config.num_labels, model.config.problem_type
    wanted = "regression" if is_regression else "single_label_classification"
    if kind not in (None, wanted) or (num_outputs == 1) != is_regression:
        raise InputError(
            f"{name}: its configuration says problem_type: {kind or 'null'} and {num_outputs} "
            f"outputs, and {wanted} with {'one' if is_regression else 'one per label'} is needed "
            "here; write another model, or another data.problem_type"
        )


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
