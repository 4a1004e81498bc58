"""Models with an encoder and a decoder: what is known of them without loading them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmkd.check.architectures import size_of
from llmkd.check.config_fields import with_defaults
from llmkd.check.facts import NotKnownError
from llmkd.check.vocabulary import Decoder, Tokenizer

KNOWN_SEQ2SEQ = ("t5", "bart")
NO_SHAPE = "no formula for what an encoder and a decoder keep; the run itself will tell"


def is_seq2seq(config: Mapping[str, Any]) -> bool | None:
    """Whether a configuration is that of an encoder and a decoder; None where that is not known."""
    if "is_encoder_decoder" in config:
        return bool(config["is_encoder_decoder"])
    defaults = _defaults(config)
    return bool(defaults.get("is_encoder_decoder")) if defaults else None


def _defaults(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Those of the architecture; empty where it is not known."""
    model_type = config.get("model_type")
    try:
        return with_defaults(model_type, {}) if isinstance(model_type, str) else {}
    except (NotKnownError, OSError, ValueError):
        return {}


def reading_as(tokenizer: Tokenizer | str, config: Mapping[str, Any]) -> Tokenizer | str:
    """The tokenizer as a model of this configuration has rows tokenized."""
    if isinstance(tokenizer, str):
        return tokenizer
    decoder = Decoder(_start(tokenizer, config)) if is_seq2seq(config) else None
    return replace(tokenizer, decoder=decoder)


def _start(tokenizer: Tokenizer, config: Mapping[str, Any]) -> int | None:
    """What the decoder begins with, where it can be a text's first token."""
    if "decoder_start_token_id" in config:
        return config["decoder_start_token_id"]
    # As llmkd.models.kinds, for a student from scratch.
    defaults = _defaults(config)
    start = defaults.get("decoder_start_token_id")
    is_bos = start == defaults.get("bos_token_id") != defaults.get("pad_token_id")
    if start is None or not is_bos:
        return None
    return tokenizer.vocabulary.get(str(tokenizer.bos_token))


def num_seq2seq_parameters(config: Mapping[str, Any]) -> int:
    """Parameters of a T5 or BART model, by formula.

    Raises:
        NotKnownError: Of another architecture, or with sizes that make no model.
    """
    model_type = config.get("model_type")
    if model_type not in KNOWN_SEQ2SEQ:
        raise NotKnownError(
            f"no formula for {model_type}, only for {', '.join(KNOWN_SEQ2SEQ)}; the run itself will tell"
        )
    assert isinstance(model_type, str)
    fields = with_defaults(model_type, config)
    return _t5(fields) if model_type == "t5" else _bart(fields)


def num_positions(config: Mapping[str, Any]) -> int | None:
    """Tokens that each side may read, where positions are learned; None where it is not known."""
    if config.get("model_type") != "bart":
        return None
    return with_defaults("bart", config).get("max_position_embeddings")


def _t5(config: Mapping[str, Any]) -> int:
    hidden, num_heads = size_of(config, "d_model"), size_of(config, "num_heads")
    attention = 4 * hidden * num_heads * size_of(config, "d_kv") + hidden
    is_gated = str(config.get("feed_forward_proj")).startswith("gated")
    feed_forward = (3 if is_gated else 2) * hidden * size_of(config, "d_ff") + hidden
    num_layers = size_of(config, "num_layers")
    encoder = num_layers * (attention + feed_forward)
    decoder = size_of(config, "num_decoder_layers", num_layers) * (2 * attention + feed_forward)
    # The first layer of each has the position biases for all; a last norm ends each.
    outside = 2 * (size_of(config, "relative_attention_num_buckets") * num_heads + hidden)
    # transformers ties T5's embeddings whatever the configuration says.
    return size_of(config, "vocab_size") * hidden + encoder + decoder + outside


def _bart(config: Mapping[str, Any]) -> int:
    hidden, vocab = size_of(config, "d_model"), size_of(config, "vocab_size")
    norm = 2 * hidden
    attention = 4 * (hidden * hidden + hidden) + norm

    def layer(side: str, num_attentions: int) -> int:
        inner = size_of(config, f"{side}_ffn_dim")
        feed_forward = 2 * hidden * inner + inner + hidden + norm
        return size_of(config, f"{side}_layers") * (num_attentions * attention + feed_forward)

    # Two positions more than are used, as in the first of these models.
    outside = 2 * ((size_of(config, "max_position_embeddings") + 2) * hidden + norm)
    # Untied, encoder, decoder and head have embeddings of their own beside the shared ones.
    embeddings = (1 if config.get("tie_word_embeddings") else 4) * vocab * hidden
    return layer("encoder", 1) + layer("decoder", 2) + outside + embeddings
