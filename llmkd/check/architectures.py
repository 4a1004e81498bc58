"""How many parameters a model of a given configuration has, by formula.

Held against the real models of transformers in tests/check/test_architectures.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmkd.check.config_fields import with_defaults
from llmkd.check.facts import NotKnownError
from llmkd.recipe.values import shown

LLAMA_FAMILY = ("llama", "mistral", "qwen2", "qwen3")
LARGEST_SIZE = 2**40
"""Beyond any model, and small enough to multiply as a float."""
KNOWN = (*LLAMA_FAMILY, "gpt2")


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder-only model.

    Args:
        hidden: Width of the residual stream.
        intermediate: Width inside the feed-forward part.
        num_layers: Decoder layers.
        query: Width of all query heads together.
        key: Width of all key heads together; the values' is the same.
        vocab_size: Rows of the embedding.
        linears: (name, inputs, outputs) of each linear layer of one decoder layer.
        per_layer: Parameters of one decoder layer.
        outside: Parameters outside the layers.
        is_gated: Whether the feed-forward part has three matrices (SwiGLU) rather than two.
        is_tied: Whether the output head is the embedding.
        has_head_norm: Whether each head's queries and keys are normalised.
        num_positions: The longest sequence, where positions are learned.
    """

    hidden: int
    intermediate: int
    num_layers: int
    query: int
    key: int
    vocab_size: int
    linears: tuple[tuple[str, int, int], ...]
    per_layer: int
    outside: int
    is_gated: bool
    is_tied: bool
    has_head_norm: bool = False
    num_positions: int | None = None

    @property
    def num_parameters(self) -> int:
        """All of them; tied embeddings count once."""
        return self.num_layers * self.per_layer + self.outside

    def with_vocabulary(self, vocab_size: int) -> "Shape":
        """The same model with more or fewer tokens."""
        rows = (1 if self.is_tied else 2) * (vocab_size - self.vocab_size)
        outside = self.outside + rows * self.hidden
        return replace(self, vocab_size=vocab_size, outside=outside)


def num_lora_parameters(shape: Shape, r: int, target_modules: str | list[str]) -> int:
    """Trainable parameters of low-rank adapters: r rows and r columns for each adapted layer.

    Raises:
        NotKnownError: A target is none of the decoder layers' linear layers.
    """
    names = {name for name, _, _ in shape.linears}
    targets = names if target_modules == "all-linear" else set(target_modules)
    if others := sorted(targets - names):
        raise NotKnownError(
            f"lora.target_modules names {', '.join(others)}, for which there is no formula, only "
            f"for {', '.join(sorted(names))}; the run itself will tell"
        )
    per_layer = sum(
        r * (inputs + outputs) for name, inputs, outputs in shape.linears if name in targets
    )
    return shape.num_layers * per_layer


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The shape that a transformers configuration describes, its defaults filled in.

    Raises:
        NotKnownError: Of another architecture, or with sizes that make no model.
    """
    model_type = config.get("model_type")
    if model_type not in KNOWN:
        raise NotKnownError(
            f"no formula for {model_type}, only for {', '.join(KNOWN)}; the run itself will tell"
        )
    assert isinstance(model_type, str)
    fields = with_defaults(model_type, config)
    return _gpt2(fields) if model_type == "gpt2" else _llama(fields, model_type)


def _llama(config: Mapping[str, Any], model_type: str) -> Shape:
    hidden, intermediate = size_of(config, "hidden_size"), size_of(config, "intermediate_size")
    num_heads = size_of(config, "num_attention_heads")
    num_key_heads = size_of(config, "num_key_value_heads", num_heads)
    head = size_of(config, "head_dim", hidden // num_heads)
    query, key, vocab = num_heads * head, num_key_heads * head, size_of(config, "vocab_size")
    linears = (
        ("q_proj", hidden, query),
        ("k_proj", hidden, key),
        ("v_proj", hidden, key),
        ("o_proj", query, hidden),
        ("gate_proj", hidden, intermediate),
        ("up_proj", hidden, intermediate),
        ("down_proj", intermediate, hidden),
    )
    has_bias, has_mlp_bias = bool(config.get("attention_bias")), bool(config.get("mlp_bias"))
    per_layer = sum(inputs * outputs for _, inputs, outputs in linears) + 2 * hidden
    if model_type == "qwen2" or (model_type in ("llama", "qwen3") and has_bias):
        per_layer += query + 2 * key + (0 if model_type == "qwen2" else hidden)
    if model_type == "llama" and has_mlp_bias:
        per_layer += 2 * intermediate + hidden
    if model_type == "qwen3":
        per_layer += 2 * head
    is_tied = bool(config.get("tie_word_embeddings"))
    outside = hidden + vocab * hidden * (1 if is_tied else 2)
    return Shape(
        hidden, intermediate, size_of(config, "num_hidden_layers"), query, key, vocab, linears,
        per_layer, outside, is_gated=True, is_tied=is_tied, has_head_norm=model_type == "qwen3",
    )  # fmt: skip


def _gpt2(config: Mapping[str, Any]) -> Shape:
    if config.get("add_cross_attention"):
        raise NotKnownError("no formula for a GPT-2 with cross-attention; the run itself will tell")
    hidden, vocab = size_of(config, "n_embd"), size_of(config, "vocab_size")
    inner = size_of(config, "n_inner", 4 * hidden)
    linears = (
        ("c_attn", hidden, 3 * hidden),
        ("c_proj", hidden, hidden),
        ("c_fc", hidden, inner),
        ("c_proj", inner, hidden),
    )
    biases = sum(outputs for _, _, outputs in linears)
    per_layer = sum(inputs * outputs for _, inputs, outputs in linears) + biases + 4 * hidden
    is_tied, positions = bool(config.get("tie_word_embeddings")), size_of(config, "n_positions")
    outside = vocab * hidden * (1 if is_tied else 2) + positions * hidden + 2 * hidden
    return Shape(
        hidden, inner, size_of(config, "n_layer"), hidden, hidden, vocab, linears, per_layer,
        outside, is_gated=False, is_tied=is_tied, num_positions=positions,
    )  # fmt: skip


def size_of(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A size that a configuration must have, or its default.

    Raises:
        NotKnownError: It is no whole number that a model could have.
    """
    value = config.get(name)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < LARGEST_SIZE:
        raise NotKnownError(f"{name} of its configuration is {shown(value)}; write a whole number")
    return value
