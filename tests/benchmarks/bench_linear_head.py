"""Time and workspace of the chunked head against its peers and against the bare matrix products.

    pip install -c constraints.txt -e '.[bench]'      # the peers; what is missing is left out
    python tests/benchmarks/bench_linear_head.py [--shapes small large ...] [--output FILE]

Versions, in one process, on the same tensors, in turn, forward and backward, with a trained head:

- products: the four matrix products that no exact method can do without: teacher's head and student's
  head, into a buffer that is there, and the gradients of the student's hidden states and weight, into
  new tensors, as every version returns new ones.
- ours: `divergence_from_hidden`.
- plain: both models' full logits, and torch's own operations with automatic differentiation.
- liger, liger_eager: liger-kernel's chunked distillation loss as it comes (compiled, chunks of 1024),
  and in chunks of 256 without torch.compile.
- trl: TRL's chunked divergence.

A version's ratio is the median over rounds of its time by the products' time in the same round.
The difference is that of a version's gradients to those of plain, in norm, relative to these.
Workspace: a fresh process per version (on a GPU: the allocator's peak), the growth of the peak over one
forward and backward pass, less the two gradients that are returned.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from circumstances import RESULTS, circumstances, hardware, load_average, save
from torch import Tensor

from llmkd.losses import closed_form, divergences
from llmkd.losses.linear_head import divergence_from_hidden
from llmkd.losses.signals import LinearHead
from llmkd.losses.terms import Divergence, HeadTerm

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# Positions, hidden size of both models, vocabulary.
SHAPES = {
    "small": (1024, 512, 32_000),
    "double": (2048, 512, 32_000),
    "large": (1024, 896, 151_936),
    "gpu": (8192, 4096, 128_256),
}
DIVERGENCES: dict[str, tuple[Divergence, Callable[..., Tensor]]] = {
    "forward_kl": (closed_form.FORWARD_KL, divergences.forward_kl),
    "reverse_kl": (closed_form.REVERSE_KL, divergences.reverse_kl),
    "jsd": (closed_form.jsd(0.5), divergences.jsd),
    "skew_forward_kl": (closed_form.skew_forward_kl(0.1), divergences.skew_forward_kl),
    "skew_reverse_kl": (closed_form.skew_reverse_kl(0.1), divergences.skew_reverse_kl),
    "total_variation": (closed_form.TOTAL_VARIATION, divergences.total_variation),
    "adaptive_kl": (closed_form.adaptive_kl(0.5), divergences.adaptive_kl),
    "todi": (closed_form.TODI, divergences.todi),
    "logit_mse": (closed_form.LOGIT_MSE, divergences.logit_mse),
    "nkd": (closed_form.nkd(1.0, 1.5), divergences.nkd),
}
LOGIT_SCALE = float(os.environ.get("LOGIT_SCALE", "1"))
"""Standard deviation of the logits: 1 is a nearly flat distribution, 3 one as of a language model."""
WANTED = os.environ.get("VERSIONS", "").split()
"""Only these versions, where any are named."""
PEERS_BETA = {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": 0.5}
"""What liger-kernel and TRL call those that they have."""


class Inputs:
    """Hidden states and heads of a student that learns all of its head, and of a teacher."""

    def __init__(self, shape: str, dtype: torch.dtype):
        torch.manual_seed(0)
        n, h, v = SHAPES[shape]

        def normal(*size: int, scale: float = 1.0) -> Tensor:
            return (torch.randn(*size, device=DEVICE) * scale).to(dtype)

        scale = LOGIT_SCALE * h**-0.5
        self.student = LinearHead(normal(n, h), normal(v, h, scale=scale))
        self.teacher = LinearHead(normal(n, h), normal(v, h, scale=scale))
        self.target_ids = torch.randint(v, (n,), device=DEVICE)
        self.leaves = self.student.hidden, self.student.weight
        for leaf in self.leaves:
            leaf.requires_grad_()
        self.weights = torch.full((1, n), 1 / n, device=DEVICE)

    def gradients(self) -> Tensor:
        """Both, one after the other."""
        return torch.cat([leaf.grad.float().flatten() for leaf in self.leaves])

    def forget_gradients(self) -> None:
        for leaf in self.leaves:
            leaf.grad = None


class Products:
    """The bare products; their buffer is made once."""

    def __init__(self, inputs: Inputs):
        hidden, weight = (leaf.detach() for leaf in inputs.leaves)
        self.student, self.teacher = (
            (hidden, weight),
            (inputs.teacher.hidden, inputs.teacher.weight),
        )
        self.logits = hidden.new_empty(len(hidden), len(weight))
        self.gradients: tuple[Tensor, ...] = ()

    def __call__(self) -> None:
        hidden, weight = self.student
        self.gradients = ()
        torch.mm(self.teacher[0], self.teacher[1].T, out=self.logits)
        torch.mm(hidden, weight.T, out=self.logits)
        self.gradients = self.logits @ weight, self.logits.T @ hidden


def ours(inputs: Inputs, case: str) -> Tensor:
    return divergence_from_hidden(
        inputs.student,
        inputs.teacher,
        inputs.target_ids,
        [HeadTerm(case, DIVERGENCES[case][0])],
        inputs.weights,
    ).loss


def plain(inputs: Inputs, case: str) -> Tensor:
    student_logits = inputs.student.hidden @ inputs.student.weight.T
    with torch.no_grad():
        teacher_logits = inputs.teacher.hidden @ inputs.teacher.weight.T
    if case not in PEERS_BETA or case == "jsd":
        labels = [inputs.target_ids] if case == "nkd" else []
        return DIVERGENCES[case][1](student_logits, teacher_logits, *labels).mean()
    # Not ours: what a reader of torch's documentation would write.
    log_q = torch.log_softmax(student_logits.float(), -1)
    log_p = torch.log_softmax(teacher_logits.float(), -1)
    pair = (log_q, log_p) if case == "forward_kl" else (log_p, log_q)
    return torch.nn.functional.kl_div(*pair, reduction="batchmean", log_target=True)


def liger(inputs: Inputs, case: str, *, compiled: bool = True, chunk_size: int = 1024) -> Tensor:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0,
        weight_soft_loss=1.0,
        beta=PEERS_BETA[case],
        compiled=compiled,
        chunk_size=chunk_size,
    )
    student, teacher = inputs.student, inputs.teacher
    return loss(student.hidden, student.weight, teacher.hidden, teacher.weight, inputs.target_ids)


def liger_eager(inputs: Inputs, case: str) -> Tensor:
    return liger(inputs, case, compiled=False, chunk_size=256)


def trl(inputs: Inputs, case: str) -> Tensor:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    student, teacher = inputs.student, inputs.teacher
    values, _ = ChunkedDivergenceFunction.apply(
        student.hidden,
        student.weight,
        None,
        teacher.hidden,
        teacher.weight,
        None,
        # Its mixture's weight is the teacher's; 0 and 1 are forward and reverse KL all the same.
        PEERS_BETA[case],
    )
    return values.mean()


VERSIONS: dict[str, Callable[[Inputs, str], Tensor]] = {
    "ours": ours,
    "plain": plain,
    "liger": liger,
    "liger_eager": liger_eager,
    "trl": trl,
}


def versions_of(case: str) -> list[str]:
    return WANTED or (list(VERSIONS) if case in PEERS_BETA else ["ours", "plain"])


def run(version: str, inputs: Inputs, case: str) -> None:
    inputs.forget_gradients()
    VERSIONS[version](inputs, case).backward()


def seconds(function: Callable[[], None]) -> float:
    synchronize()
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def measure_times(
    shape: str, dtype: torch.dtype, case: str, repeats: int
) -> dict[str, dict[str, float | str]]:
    inputs = Inputs(shape, dtype)
    products = Products(inputs)
    taken: dict[str, list[float]] = {"products": []}
    failed: dict[str, dict[str, float | str]] = {}
    differences: dict[str, float] = {}
    run("plain", inputs, case)
    expected = inputs.gradients()
    for version in versions_of(case):
        try:
            run(version, inputs, case)
            taken[version] = []
            difference = (inputs.gradients() - expected).norm() / expected.norm()
            differences[version] = float(f"{difference.item():.2e}")
        except Exception as error:  # noqa: BLE001 - a peer that fails is reported, not fatal
            failed[version] = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    products()
    for _ in range(repeats):
        for version, times in taken.items():
            times.append(
                seconds(products)
                if version == "products"
                else seconds(lambda version=version: run(version, inputs, case))
            )
    return {
        version: {
            **summary(times),
            **({"difference": differences[version]} if version in differences else {}),
            "to_products": round(
                statistics.median(a / b for a, b in zip(times, taken["products"], strict=True)),
                3,
            ),
        }
        for version, times in taken.items()
    } | failed


def summary(times: list[float]) -> dict[str, float | str]:
    fifths = statistics.quantiles(times, n=5, method="inclusive")
    return {
        "median_s": round(statistics.median(times), 4),
        "p20_s": round(fifths[0], 4),
        "p80_s": round(fifths[-1], 4),
    }


def workspace_mib(shape: str, dtype: str, case: str, version: str) -> float | None:
    command = [sys.executable, __file__, "--workspace-of", shape, dtype, case, version]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return None if done.returncode else round(float(done.stdout), 1)


def print_workspace(shape: str, dtype: str, case: str, version: str) -> None:
    inputs = Inputs(shape, getattr(torch, dtype))
    returned = sum(leaf.numel() * leaf.element_size() for leaf in inputs.leaves) / 2**20
    # A product beforehand, so that the thread pool and the libraries' buffers are not counted.
    inputs.student.hidden[:64].detach() @ inputs.student.weight[:64].detach().T
    before = memory_mib(reset=True)
    run(version, inputs, case)
    synchronize()
    print(memory_mib() - before - returned)  # noqa: T201


def memory_mib(*, reset: bool = False) -> float:
    """The peak so far, or with `reset` what is in use now, from where the peak starts anew."""
    if DEVICE == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 2**20
    if reset:
        # (ru_maxrss would not do: it starts at the parent's.)
        Path("/proc/self/clear_refs").write_text("5")
    field = "VmRSS:" if reset else "VmHWM:"
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith(field))
    return int(kib) / 2**10


def gradient_error(shape: str, dtype: torch.dtype, case: str) -> float:
    """The norm of the difference to float64's gradient of the first positions, relative to it."""
    inputs = Inputs(shape, dtype)
    rows, found = slice(0, 32), []
    for wide in (False, True):

        def part(x: Tensor, wide: bool = wide) -> Tensor:
            return x.detach().double() if wide else x.detach()

        student = LinearHead(
            part(inputs.student.hidden[rows]).requires_grad_(),
            part(inputs.student.weight).requires_grad_(),
        )
        teacher = LinearHead(part(inputs.teacher.hidden[rows]), part(inputs.teacher.weight))
        output = divergence_from_hidden(
            student,
            teacher,
            inputs.target_ids[rows],
            [HeadTerm(case, DIVERGENCES[case][0])],
            inputs.weights[:, rows],
        )
        output.loss.backward()
        found.append(
            torch.cat([x.grad.double().flatten() for x in (student.hidden, student.weight)])
        )
    return float(f"{((found[0] - found[1]).norm() / found[1].norm()).item():.2e}")


def hardware_of(device: str) -> dict[str, object]:
    if device == "cuda":
        return {"gpu": torch.cuda.get_device_name(), "driver": torch.version.cuda}
    return hardware()


def measure(
    shape: str, dtype: str, case: str, repeats: int, *, with_memory: bool
) -> dict[str, object]:
    times = measure_times(shape, getattr(torch, dtype), case, repeats)
    found: dict[str, object] = {"time": times}
    if with_memory:
        found["workspace_mib"] = {
            version: workspace_mib(shape, dtype, case, version) for version in versions_of(case)
        }
    found["gradient_error"] = gradient_error(shape, getattr(torch, dtype), case)
    print(shape, dtype, case, json.dumps(found), flush=True)  # noqa: T201
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = RESULTS / f"linear_head_{DEVICE}.json"
    parser.add_argument("--output", type=Path, default=default)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["small"])
    parser.add_argument("--dtypes", nargs="+", default=["float32"])
    parser.add_argument("--cases", nargs="+", choices=DIVERGENCES, default=list(DIVERGENCES))
    parser.add_argument("--without-memory", action="store_true")
    parser.add_argument("--workspace-of", nargs=4, help="internal")
    args = parser.parse_args()
    if args.workspace_of:
        return print_workspace(*args.workspace_of)
    done = json.loads(args.output.read_text()) if args.output.exists() else {"runs": []}
    done["runs"].append(
        {
            **circumstances(),
            "hardware": hardware_of(DEVICE),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "timed_rounds": args.repeats,
            "logit_scale": LOGIT_SCALE,
            "cases": {
                f"{shape} {dtype} {case}": measure(
                    shape, dtype, case, args.repeats, with_memory=not args.without_memory
                )
                for shape in args.shapes
                for dtype in args.dtypes
                for case in args.cases
            },
            "load_average_at_end": load_average(),
        }
    )
    save(args.output, done)
    return None


if __name__ == "__main__":
    main()
