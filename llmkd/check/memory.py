"""An estimate of the memory that a stage takes at its peak. Formulas, not measurements.

A train stage holds, in bytes (P parameters, s bytes per number that is computed with: 2 with `bf16`
or `fp16`, else those of the weights; T tokens of one micro-batch, padding included; h hidden size, f
feed-forward size, q and k widths of all query and key heads, L layers, V vocabulary):

    weights         P times the weights' own bytes
    adapters        with LoRA, their parameters times 4: peft keeps them in float32
    gradients       trainable parameters times their bytes
    optimizer       trainable parameters times their bytes times the optimizer's states per
                    parameter: AdamW 2
    half copies     2 P, where autocast keeps a half-precision copy of float32 weights
    activations     T (L + 2) a, where a layer keeps for the backward pass
                    a = 4 s f + (24 h if s is 4 else 26 h) + s (2 q + 2 k), and 5 s f for GPT-2;
                    the two layers more are what the backward pass itself takes;
                    with gradient_checkpointing T (4 h L + 5 a): a layer anew, and its gradients
    teacher         its weights, and T (4 h + 3 f) s for the layer at work; more in
                    `llmkd.check.teachers`
    head            of language models: for each model the logits of one chunk (126 MiB or h / 2
                    positions on a processor, 256 MiB on an accelerator), 8 times (4 times without a teacher) those of a block
                    (4 MiB for each processor, 64 MiB on an accelerator), neither more than T V 4;
                    the heads in half precision, the student head's gradient in float32 (V h 4),
                    and T h 8
    runtime         what Python, torch and transformers take before anything is loaded

The coefficients of `a` are what PyTorch 2.13 saves for transformers 5.23's Llama and GPT-2 with the
SDPA attention; other kernels and versions differ, and where attention keeps T x T matrices (eager,
or with dropout on a processor) they come on top. The sum is an upper bound of sorts, as not all of
it stands at the same moment; on a processor, freed memory that the C library keeps comes on top.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmkd.check.architectures import Shape
from llmkd.check.facts import Fact, value_of
from llmkd.check.machine import MIB, Memory
from llmkd.check.models import Model
from llmkd.check.spread import ALONE, Spread, Trained, states
from llmkd.check.teachers import Beside, one_layer, sent_bytes, teacher_bytes
from llmkd.losses.budgets import rows_of_block, rows_of_chunk

RUNTIME_BYTES = 700 * MIB
COPIES_OF_A_BLOCK = {"with teacher": 8, "without": 4}

CHECKPOINTED_LAYERS = 5
"""Layers' worth of activations while one is computed anew: measured, 3.6 to 4.7."""
CHECKPOINTING = ("gradient_checkpointing", "activation_checkpointing")
"""Its names in transformers, the older one first."""

# Bytes per trainable parameter where they do not depend on the parameter's own type.
QUANTIZED_STATES = {
    "adamw_torch_4bit": 1, "adamw_torch_8bit": 2, "adamw_bnb_8bit": 2, "adamw_8bit": 2,
    "paged_adamw_8bit": 2, "lion_8bit": 1, "paged_lion_8bit": 1, "rmsprop_bnb_8bit": 1,
    "ademamix_8bit": 3, "paged_ademamix_8bit": 3,
}  # fmt: skip
STATES = {
    "adamw_torch": 2, "adamw_torch_fused": 2, "adamw_torch_xla": 2, "adamw_torch_npu_fused": 2,
    "paged_adamw_32bit": 2, "stable_adamw": 2, "schedule_free_adamw": 2, "sgd": 0, "adagrad": 1,
    "rmsprop": 1, "rmsprop_bnb": 1, "rmsprop_bnb_32bit": 1, "lion_32bit": 1, "paged_lion_32bit": 1,
    "ademamix": 3, "paged_ademamix_32bit": 3,
    # Rows and columns instead of matrices: next to nothing.
    "adafactor": 0,
}  # fmt: skip

TIGHT = 0.8
"""From this share of the free memory on, an estimate that fits may turn out not to."""


@dataclass(frozen=True)
class Optimizer:
    """Bytes of optimizer state per trainable parameter, and how that is known."""

    bytes_per_parameter: float
    how: str


def optimizer_of(arguments: Mapping[str, Any], width: int) -> Optimizer:
    """What `trainer.optim` keeps.

    Args:
        arguments: All training arguments.
        width: Bytes per trainable parameter.
    """
    name = arguments["optim"] or "adamw_torch"
    if name in QUANTIZED_STATES:
        return Optimizer(QUANTIZED_STATES[name], name)
    if name in STATES:
        return Optimizer(STATES[name] * width, name)
    return Optimizer(2 * width, f"{name} taken for AdamW")


def train_memory(
    student: Model,
    teacher: Beside | None,
    tokens: Fact,
    arguments: Mapping[str, Any],
    *,
    has_accelerator: bool,
    spread: Spread = ALONE,
) -> Fact:
    """The peak of a train stage, in one of its processes.

    Args:
        student: What is trained.
        teacher: What it is compared with, and where that is.
        tokens: Of one micro-batch, padding included.
        arguments: All training arguments.
        has_accelerator: Whether it runs on one.
        spread: Over which processes.

    Raises:
        NotKnownError: The student's size or the length of the data is not known.
    """
    num_parameters, num_trainable = value_of(student.parameters), value_of(student.trainable)
    is_half = bool(arguments["bf16"] or arguments["fp16"])
    is_adapter = num_trainable != num_parameters
    # DeepSpeed and FSDP2 have the optimizer work in float32, as peft's adapters do.
    is_float32 = is_adapter or (is_half and spread.engine not in (None, "ddp"))
    trained_width = 4 if is_float32 else student.bytes_per_parameter
    optimizer = optimizer_of(arguments, trained_width)
    trained = Trained(
        num_parameters, num_trainable, student.bytes_per_parameter, trained_width,
        optimizer.bytes_per_parameter, is_half, student.shape,
    )  # fmt: skip
    parts = states(trained, spread, has_accelerator=has_accelerator)
    how, exactness = f"estimate with {optimizer.how}", "estimate"
    compute_width = 2 if is_half else student.bytes_per_parameter
    if isinstance(student.shape, Shape):
        parts["activations"] = _activations(
            student.shape, value_of(tokens), compute_width,
            is_checkpointed=any(map(arguments.get, CHECKPOINTING)),
        )  # fmt: skip
        if student.shape.num_labels is None:
            parts["head"] = _head(
                student.shape, value_of(tokens), is_half=is_half, is_frozen=is_adapter,
                has_accelerator=has_accelerator, has_teacher=teacher is not None,
            )  # fmt: skip
    else:
        how, exactness = f"without activations: {student.shape}", "at least"
    if teacher is not None and teacher.model.parameters.value is None:
        how = f"{how}, without the teacher: {teacher.model.parameters.how}"
        exactness = "at least"
    elif teacher is not None:
        parts["teacher"] = teacher_bytes(
            teacher, value_of(tokens), spread, is_half=is_half, has_accelerator=has_accelerator,
            student_keeps=parts.get("activations", 0) + parts.get("head", 0),
        )  # fmt: skip
        if not has_accelerator and (sent := sent_bytes(teacher, spread)):
            parts["gloo"] = max(parts.get("gloo", 0), sent)
        if why := teacher.why_at_least(spread):
            how, exactness = f"{how}, not all of the teacher: {why}", "at least"
    parts["runtime"] = RUNTIME_BYTES
    if spread.engine is not None:
        how = f"in each of {spread.num_processes} processes by {spread.engine}; {how}"
    return Fact(sum(parts.values()), exactness, how, "bytes", parts)


def generate_memory(model: Model, num_sequences: int, length: Fact) -> Fact:
    """The peak of generation: weights, the key-value cache, and the logits of one position.

    Of a classifier, which keeps no cache, the peak of reading.

    Args:
        model: What generates.
        num_sequences: At a time.
        length: Tokens of prompt and completion together.

    Raises:
        NotKnownError: The model's or the prompts' size is not known.
    """
    width = model.bytes_per_parameter
    parts = {"weights": value_of(model.parameters) * width, "runtime": RUNTIME_BYTES}
    if not isinstance(model.shape, Shape):
        return Fact(
            sum(parts.values()), "at least", f"without the cache: {model.shape}", "bytes", parts
        )
    tokens = num_sequences * value_of(length)
    if model.shape.num_labels is None:
        parts["cache"] = tokens * model.shape.num_layers * 2 * model.shape.key * width
        parts["logits"] = 4 * num_sequences * model.shape.vocab_size * 4
    parts["activations"] = one_layer(model.shape, tokens, width)
    return Fact(sum(parts.values()), "estimate", "estimate", "bytes", parts)


def verdict(fact: Fact, memory: Memory | None) -> str:
    """`fits`, `tight`, `does not fit` or `not known`, against the memory that is free."""
    if fact.value is None or memory is None:
        return "not known"
    if fact.value > memory.free:
        return "does not fit"
    if fact.exactness == "at least":
        return "not known"
    return "tight" if fact.value > TIGHT * memory.free else "fits"


def saved_per_token(shape: Shape, width: int) -> int:
    """Bytes that one decoder layer keeps of one token for the backward pass.

    Args:
        shape: The model's.
        width: Bytes per number that is computed with.
    """
    layer = (4 if shape.is_gated else 5) * width * shape.intermediate
    layer += (24 if width == 4 else 26) * shape.hidden
    layer += 2 * width * (shape.query + shape.key)
    return layer + shape.has_head_norm * 8 * (shape.query + shape.key)


def _activations(shape: Shape, tokens: int, width: int, *, is_checkpointed: bool) -> int:
    layer = saved_per_token(shape, width)
    if is_checkpointed:
        return tokens * (4 * shape.hidden * shape.num_layers + CHECKPOINTED_LAYERS * layer)
    return tokens * (shape.num_layers + 2) * layer


def _head(
    shape: Shape, tokens: int, *, is_half: bool, is_frozen: bool, has_accelerator: bool,
    has_teacher: bool,
) -> int:  # fmt: skip
    weights, row = shape.vocab_size * shape.hidden, 4 * shape.vocab_size
    chunk = row * rows_of_chunk(tokens, row, shape.hidden, on_cpu=not has_accelerator)
    num_threads = 1 if has_accelerator else os.cpu_count() or 1
    block = row * rows_of_block(row, on_cpu=not has_accelerator)
    blocks = min(block * num_threads, max(row, tokens * row))
    copies = COPIES_OF_A_BLOCK["with teacher" if has_teacher else "without"]
    gradient = 0 if is_frozen else 4 * weights
    logits = (1 + has_teacher) * chunk + copies * blocks
    return logits + gradient + 2 * weights * is_half + 8 * tokens * shape.hidden
