"""What models to merge must have in common, and how it is told. Imports no torch."""

from collections.abc import Mapping

ALIKE = (
    "model_type",
    "architectures",
    "is_encoder_decoder",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rope_parameters",
    "rms_norm_eps",
    "layer_norm_eps",
    "sliding_window",
    "vocab_size",
    "tie_word_embeddings",
    "id2label",
    "problem_type",
)
"""Fields of a configuration that say what weights mean: equal shapes do not show them all."""


def different_tokens(ours: Mapping[str, int], theirs: Mapping[str, int]) -> str | None:
    """What is wrong with tokenizers that give different meanings to token ids.

    Args:
        ours: The first model's tokens and their ids.
        theirs: Another model's.
    """
    differing = sorted(
        token for token in {**ours, **theirs} if ours.get(token) != theirs.get(token)
    )
    if not differing:
        return None
    return (
        f"has another tokenizer than the first model: {len(differing)} tokens differ, such as "
        + ", ".join(repr(token) for token in differing[:3])
        + "; rows of the two embeddings stand for different tokens, so merge models of one tokenizer"
    )
