"""What a teacher takes beside its student: of the device, and of the host. Formulas, not measurements.

In bytes on the device (P parameters, M of them in the layers' matrices, with R rows in all, H those of the
output head, O others outside the layers, l those of a layer; N processes; w bytes of `teacher.dtype`):

    as it is              w P
    sharded               w (H + (P - H) / N), and w (O + l + max(O, l)) gathered
    quantization: 8bit    M + 4 R + w (P - M)
    quantization: 4bit    M / 2 + 4 M / 64 + w (P - M)
    offload: cpu          w P while it is asked, which is before the student keeps anything for its
                          backward pass; then w H, for the loss reads the head
    both                  w H, and what is gathered

and, as it runs, T (4 h + 3 f) bytes of what it computes in, for the layer at work. FSDP2 gathers a group
into one buffer and copies it out: what is outside the layers and not the head stays gathered until the
last layer is through. LLM.int8() has a float32 scale for each row; NF4 one for each 64 weights, as
`llmkd.models.quantized` leaves double quantisation off. On a CPU `offload` changes nothing.

References:
    Dettmers et al. 2022, "LLM.int8()", https://arxiv.org/abs/2208.07339, section 2; Dettmers et al. 2023,
    "QLoRA", https://arxiv.org/abs/2305.14314, section 3.
"""

from dataclasses import dataclass, replace
from typing import Any

from llmkd.check.architectures import Shape
from llmkd.check.facts import value_of
from llmkd.check.models import Model
from llmkd.check.spread import Spread
from llmkd.recipe.models import InProcessTeacher

NF4_BLOCK = 64
"""Weights that share a scale."""


@dataclass(frozen=True)
class Beside:
    """A teacher, and where the recipe wants its weights."""

    model: Model
    source: InProcessTeacher

    def with_setting(self, **changed: Any) -> "Beside":
        """The same teacher, another place or number of bits."""
        return replace(self, source=self.source.model_copy(update=changed))

    def is_sharded_over(self, spread: Spread) -> bool:
        """Whether a process has only a part of it."""
        return self.source.sharded and spread.num_processes > 1

    def why_at_least(self, spread: Spread) -> str | None:
        """Why what it takes is known from below only; None where it is an estimate."""
        needs_shape = self.is_sharded_over(spread) or self.source.quantization
        return self.model.shape if needs_shape and isinstance(self.model.shape, str) else None


def teacher_bytes(
    teacher: Beside,
    tokens: int,
    spread: Spread,
    *,
    is_half: bool,
    has_accelerator: bool,
    student_keeps: int,
) -> int:
    """What it adds to the peak of one process, on the device.

    Args:
        teacher: Its size is known.
        tokens: Of a micro-batch, padding included.
        spread: Over which processes.
        is_half: Whether it is computed in half precision.
        has_accelerator: Whether the device is one.
        student_keeps: Bytes of the student's that are not there yet while an offloaded teacher is.
    """
    is_lent = teacher.source.offload == "cpu" and has_accelerator
    shape = teacher.model.shape
    if not isinstance(shape, Shape):
        weights = loaded_bytes(teacher)
        return spread.share(weights) if teacher.is_sharded_over(spread) else weights
    width = 2 if is_half else teacher.model.bytes_per_parameter
    half_head = 2 * _head(shape) * is_half
    run = one_layer(shape, tokens, width)
    if teacher.is_sharded_over(spread):
        return _in_parts(teacher, shape, spread, is_lent) + run + half_head
    if is_lent:
        stays = _head(shape) * teacher.model.bytes_per_parameter + half_head
        return max(stays, loaded_bytes(teacher) + run + half_head - student_keeps)
    return loaded_bytes(teacher) + run + half_head


def sent_bytes(teacher: Beside, spread: Spread) -> int:
    """The most that is gathered at once for it."""
    shape = teacher.model.shape
    if not teacher.is_sharded_over(spread) or not isinstance(shape, Shape):
        return 0
    return max(shape.outside - _head(shape), shape.per_layer) * teacher.model.bytes_per_parameter


def one_layer(shape: Shape, tokens: int, width: int) -> int:
    """What a layer at work holds, where nothing is kept for a backward pass."""
    return tokens * width * (4 * shape.hidden + 3 * shape.intermediate)


def _in_parts(teacher: Beside, shape: Shape, spread: Spread, is_lent: bool) -> int:
    width, head = teacher.model.bytes_per_parameter, _head(shape)
    outside = shape.outside - head
    gathered = outside + shape.per_layer + max(outside, shape.per_layer)
    own = 0 if is_lent else spread.share((value_of(teacher.model.parameters) - head) * width)
    return own + (head + gathered) * width


def loaded_bytes(teacher: Beside) -> int:
    """Its weights as they are loaded, by every process for itself."""
    model, bits = teacher.model, teacher.source.quantization
    width, num_parameters = model.bytes_per_parameter, value_of(model.parameters)
    if bits is None:
        return num_parameters * width
    if not isinstance(model.shape, Shape):
        return num_parameters if bits == "8bit" else num_parameters // 2
    sizes = [(inputs * outputs, outputs) for _, inputs, outputs in model.shape.linears]
    matrices, rows = (model.shape.num_layers * sum(each) for each in zip(*sizes, strict=True))
    packed = matrices + 4 * rows if bits == "8bit" else matrices // 2 + 4 * matrices // NF4_BLOCK
    return packed + (num_parameters - matrices) * width


def _head(shape: Shape) -> int:
    """Parameters of the output head, which a loss reads whole; a classifier's are its last layer."""
    return shape.vocab_size * shape.hidden if shape.num_labels is None else 0
