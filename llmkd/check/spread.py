"""What one of several processes holds of a student and its optimizer. Formulas, not measurements.

For each process, in bytes (P parameters, T of them trained, N processes; s bytes of a weight: under
DeepSpeed with `bf16` or `fp16` 2, else its own; k bytes of optimizer state per trained parameter):

    engine  weights  gradients  master weights  optimizer  buckets          gathered
    ddp     s P      s T                        k T        s T
    zero1   s P      s T        4 T / N         k T / N    s min(5e7, T)
    zero2   s P      s T / N    4 T / N         k T / N    s (min(5e7, T) + S)
    zero3   s P / N  s T / N    4 T / N         k T / N    s (min(5e7, T) + S)  s min(1e9, P)
    fsdp2   4 P / N  4 T / N                    k T / N                     c H + r l + max(r H, 3 c l)

Weights, gradients, master weights and optimizer are those of the ZeRO paper, in full and divided by N:
2 + 2 + K bytes with K = 12 for mixed precision with Adam. ZeRO-3 in float32 needs no second copy as
master. What comes on top is how the engines work. DDP copies gradients into buckets that it sends.
DeepSpeed's bucket has 5e7 numbers, whether needed or not (of which a processor takes what is written to),
and it copies what is in it to send it; a larger weight's gradient is sent by itself. S is the larger of the
bucket and of the largest weight, the embedding (V h). ZeRO-1 fills the bucket after the backward pass, by as
much as it lets go of gradients, so that only one of the two counts; a student of at most 5e7 parameters takes
as much under ZeRO-2. ZeRO-3 lets go of a weight that was used, but at each
module it gathers up to 5e7 numbers more of those that come next, until 1e9 are there
(`stage3_prefetch_bucket_size`, `stage3_max_live_parameters`).

FSDP2 gathers by groups, in c bytes that are computed with: the output head with the last norm, and with
the embedding where both are one (H parameters), the embedding, each layer (l). A group is gathered into
one buffer and copied out of it, so it is there twice for a moment: 2 c H. Its gradient is whole, and
copied in r bytes (4 also with `bf16`) to be sent, a copy that lives until the next group's. So the
backward pass has a layer, its gradient, and the layer before it, which is on its way, beside the gradient
of the layer after it, (3 c + r) l, or beside the head's, 3 c l + r H; a tied head is there too, c H. At the
end the embedding is there with its gradient, in both kinds of bytes, beside a layer's. The formula is not
below any of these. Frozen weights under adapters have no gradients: c (H + max(H, 2 l)).

On processors gloo sends. To gather, or to reduce and scatter, it takes a copy of the whole beside what it
is given (measured: 256 MiB for 256 MiB; none to reduce alone): "gloo" is the largest that is sent so,
ZeRO-3's bucket or FSDP2's group. Those of ZeRO-1 and 2, which gather weights after a step, take the place
of the bucket, which is free by then.

References:
    Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
    https://arxiv.org/abs/1910.02054, sections 3.1, 5.1 to 5.3 and figure 1.
"""

from dataclasses import dataclass, replace

from llmkd.check.architectures import Shape
from llmkd.check.machine import Machine, Memory
from llmkd.errors import InputError
from llmkd.launch import DEEPSPEED_BUCKET, launch_of
from llmkd.launch_files import ENGINES

DEEPSPEED_LIVE = 1_000_000_000
"""Parameters of `stage3_max_live_parameters`: how far ahead ZeRO-3 gathers."""
MOST_GIB = 2**20
GIVEN = "as given"
"""How accelerators are known that are not here."""
ZERO_STAGES = {"zero1": 1, "zero2": 2, "zero3": 3}


@dataclass(frozen=True)
class Spread:
    """Over how many processes a training is spread.

    Args:
        engine: One of `llmkd.launch.ENGINES`; None for one process without any.
        num_processes: On all machines together.
    """

    engine: str | None = None
    num_processes: int = 1

    def share(self, size: float) -> int:
        """A process's part, rounded up."""
        return round(-(-size // self.num_processes))

    def part(self, memory: int) -> int:
        """What a process may take of memory that all share."""
        return memory // self.num_processes


ALONE = Spread()


def spread_of(launch: str | None, num_processes: int | None, machine: Machine) -> Spread:
    """What `--launch` and `--num-processes` of a check ask for.

    Raises:
        InputError: There are no formulas for it, or it is not known over how many processes.
    """
    if launch_of(launch, num_processes=num_processes) is None:
        return ALONE
    if launch not in ENGINES:
        raise InputError(
            f"--launch: {launch} is a file, and check has formulas for engines only; write "
            f"{' | '.join(ENGINES)}"
        )
    num_processes = num_processes or len(machine.accelerators)
    if num_processes == 0:
        raise InputError(
            "--num-processes: there is no accelerator here to count; write how many processes"
        )
    return Spread(launch, num_processes)


def with_devices(machine: Machine, memory_gib: float | None) -> Machine:
    """The machine as if it had accelerators with so much memory; None leaves it as it is.

    Raises:
        InputError: It is no amount of memory.
    """
    if memory_gib is None:
        return machine
    if not 0 < memory_gib < MOST_GIB:
        raise InputError(f"--device-memory-gib: {memory_gib:g}; write a number above 0, such as 80")
    size = round(memory_gib * 2**30)
    device = Memory(f"a device of {memory_gib:g} GiB", size, size)
    return replace(machine, accelerators=[device], accelerators_known=GIVEN)


@dataclass(frozen=True)
class Trained:
    """What the formulas ask of a student.

    Args:
        num_parameters: Without adapters.
        num_trainable: Of the adapters where there are some.
        width: Bytes per weight.
        trained_width: Bytes per weight that is trained.
        optimizer: Bytes of optimizer state per parameter that is trained.
        is_half: Whether it is computed in half precision.
        shape: Text where it is not known.
    """

    num_parameters: int
    num_trainable: int
    width: int
    trained_width: int
    optimizer: float
    is_half: bool
    shape: Shape | str

    @property
    def num_adapter(self) -> int:
        """Parameters of adapters, which come beside the model's own."""
        return self.num_trainable if self.num_trainable != self.num_parameters else 0


def states(student: Trained, spread: Spread, *, has_accelerator: bool) -> dict[str, int]:
    """The parts of one process's memory that depend on the engine, in bytes."""
    if spread.engine in ZERO_STAGES:
        return _zero(student, spread, ZERO_STAGES[spread.engine], has_accelerator)
    if spread.engine == "fsdp2":
        return _fsdp2(student, spread, has_accelerator)
    parts = _whole(student)
    if spread.engine == "ddp":
        parts["buckets"] = student.num_trainable * student.trained_width
    return parts


def _whole(student: Trained) -> dict[str, int]:
    parts = {
        "weights": student.num_parameters * student.width,
        "gradients": student.num_trainable * student.trained_width,
        "optimizer": round(student.num_trainable * student.optimizer),
    }
    if student.num_adapter:
        parts["adapters"] = student.num_adapter * student.trained_width
    if student.is_half and student.width == 4:
        parts["half copies"] = 2 * student.num_parameters
    return parts


def _zero(student: Trained, spread: Spread, stage: int, has_accelerator: bool) -> dict[str, int]:
    width = 2 if student.is_half else student.width
    num_trainable = student.num_trainable
    weights = (student.num_parameters + student.num_adapter) * width
    gradients = num_trainable * width
    bucket = DEEPSPEED_BUCKET if has_accelerator else min(DEEPSPEED_BUCKET, num_trainable)
    parts = {
        "weights": spread.share(weights) if stage == 3 else weights,
        "gradients": gradients if stage == 1 else spread.share(gradients),
        "optimizer": spread.share(num_trainable * student.optimizer),
        "buckets": bucket * width,
    }
    if stage < 3 or width < 4:
        parts["master weights"] = spread.share(4 * num_trainable)
    sent = min(max(DEEPSPEED_BUCKET, _largest_weight(student)), num_trainable) * width
    if stage > 1:
        parts["buckets"] += sent
    if stage == 3:
        parts["gathered"] = min(DEEPSPEED_LIVE * width, weights)
        parts |= {} if has_accelerator else {"gloo": sent}
    return parts


def _largest_weight(student: Trained) -> int:
    if not isinstance(student.shape, Shape) or student.num_adapter:
        return 0
    return student.shape.vocab_size * student.shape.hidden


def _fsdp2(student: Trained, spread: Spread, has_accelerator: bool) -> dict[str, int]:
    frozen = student.num_parameters * (student.num_adapter > 0)
    trained = student.num_trainable * student.trained_width
    parts = {
        "weights": spread.share(frozen * student.width + trained),
        "gradients": spread.share(trained),
        "optimizer": spread.share(student.num_trainable * student.optimizer),
    }
    if isinstance(student.shape, Shape):
        layer, tail = student.shape.per_layer, _tail(student.shape)
        width = 2 if student.is_half else student.width
        sent = width if student.num_adapter else student.trained_width
        if student.num_adapter:
            parts["gathered"] = (tail + max(tail, 2 * layer)) * width
        else:
            backward = max(sent * tail, 3 * width * layer)
            parts["gathered"] = width * tail + sent * layer + backward
        parts |= {} if has_accelerator else {"gloo": max(tail, layer) * sent}
    return parts


def _tail(shape: Shape) -> int:
    """Parameters of FSDP2's last group; of a classifier, the embedding, which is the largest."""
    embedding = shape.vocab_size * shape.hidden
    is_shared = shape.is_tied or shape.num_labels is not None
    return shape.outside - (0 if is_shared else embedding)
