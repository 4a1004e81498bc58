"""The shapes of sequence classifiers, by formula; see `llmkd.check.architectures`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmkd.check.architectures import KNOWN as DECODERS
from llmkd.check.architectures import Shape, shape_of, size_of
from llmkd.check.config_fields import with_defaults
from llmkd.check.facts import NotKnownError

ENCODERS = ("bert",)
KNOWN = (*ENCODERS, *DECODERS)


def classifier_shape_of(config: Mapping[str, Any], num_labels: int) -> Shape:
    """The shape of a classifier with a transformers configuration, its defaults filled in.

    Raises:
        NotKnownError: Of another architecture, or with sizes that make no model.
    """
    model_type = config.get("model_type")
    if model_type in DECODERS:
        # A matrix without a bias stands where the language model's head was.
        shape = shape_of({**config, "tie_word_embeddings": True})
        outside = shape.outside + num_labels * shape.hidden
        return replace(shape, outside=outside, num_labels=num_labels)
    if model_type not in ENCODERS:
        raise NotKnownError(
            f"no formula for a classifier of {model_type}, only for {', '.join(KNOWN)}; the run "
            "itself will tell"
        )
    assert isinstance(model_type, str)
    return _bert(with_defaults(model_type, config), num_labels)


def _bert(config: Mapping[str, Any], num_labels: int) -> Shape:
    hidden, inner = size_of(config, "hidden_size"), size_of(config, "intermediate_size")
    vocab, positions = size_of(config, "vocab_size"), size_of(config, "max_position_embeddings")
    linears = (
        ("query", hidden, hidden),
        ("key", hidden, hidden),
        ("value", hidden, hidden),
        ("dense", hidden, hidden),
        ("dense", hidden, inner),
        ("dense", inner, hidden),
    )
    weights = sum(inputs * outputs + outputs for _, inputs, outputs in linears)
    norm = 2 * hidden
    embeddings = (vocab + positions + size_of(config, "type_vocab_size")) * hidden + norm
    head = (hidden * hidden + hidden) + (hidden * num_labels + num_labels)
    return Shape(
        hidden, inner, size_of(config, "num_hidden_layers"), hidden, hidden, vocab, linears,
        per_layer=weights + 2 * norm, outside=embeddings + head, is_gated=False, is_tied=True,
        num_positions=positions, num_labels=num_labels,
    )  # fmt: skip
