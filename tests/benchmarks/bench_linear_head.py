"""Time and peak memory of the chunked linear head, against the full logits of both models.

    python tests/benchmarks/bench_linear_head.py [--output FILE] [--repeats N]

Times: both versions in one process, on the same tensors, in turn. Memory: each version in a fresh
process, as the growth of the process's peak resident size over one forward and backward pass.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from llmkd.losses import divergences
from llmkd.losses.linear_head import HeadTerm, divergence_from_hidden
from llmkd.losses.signals import LinearHead

ROOT = Path(__file__).parents[2]

SHAPES = {"positions": 4096, "vocab": 32000, "student_hidden": 512, "teacher_hidden": 512}
WARM_UP = 2
KL = HeadTerm("forward_kl", lambda q, p, _: divergences.forward_kl_from_logprobs(q, p))
CE = HeadTerm("cross_entropy", lambda q, _, ids: divergences.cross_entropy_from_logprobs(q, ids))
CASES = {"forward_kl": [KL], "forward_kl+cross_entropy": [KL, CE]}


class Inputs:
    """Hidden states and heads of a student that learns all of its head, and of a teacher."""

    def __init__(self):
        torch.manual_seed(0)
        n, v = SHAPES["positions"], SHAPES["vocab"]
        h_s, h_t = SHAPES["student_hidden"], SHAPES["teacher_hidden"]
        self.student = LinearHead(torch.randn(n, h_s), torch.randn(v, h_s) / h_s**0.5)
        self.teacher = LinearHead(torch.randn(n, h_t), torch.randn(v, h_t) / h_t**0.5)
        self.target_ids = torch.randint(v, (n,))
        self.student.hidden.requires_grad_()
        self.student.weight.requires_grad_()

    def forget_gradients(self) -> None:
        self.student.hidden.grad = self.student.weight.grad = None


def plain(inputs: Inputs, terms: list[HeadTerm]) -> Tensor:
    student, teacher = inputs.student, inputs.teacher
    student_logits = student.hidden @ student.weight.T
    with torch.no_grad():
        log_p = F.log_softmax(teacher.hidden @ teacher.weight.T, dim=-1)
    log_q = F.log_softmax(student_logits, dim=-1)
    loss = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    return loss + F.nll_loss(log_q, inputs.target_ids) if CE in terms else loss


def chunked(inputs: Inputs, terms: list[HeadTerm]) -> Tensor:
    n = SHAPES["positions"]
    weights = torch.full((len(terms), n), 1 / n)
    output = divergence_from_hidden(
        inputs.student, inputs.teacher, inputs.target_ids, terms, weights
    )
    return output.loss


VERSIONS: dict[str, Callable[[Inputs, list[HeadTerm]], Tensor]] = {
    "plain": plain,
    "chunked": chunked,
}


def measure_times(terms: list[HeadTerm], repeats: int) -> dict[str, dict[str, float]]:
    inputs = Inputs()
    seconds: dict[str, list[float]] = {name: [] for name in VERSIONS}
    for _ in range(WARM_UP + repeats):
        for name, version in VERSIONS.items():
            inputs.forget_gradients()
            start = time.perf_counter()
            version(inputs, terms).backward()
            seconds[name].append(time.perf_counter() - start)
    return {name: summary(taken[WARM_UP:]) for name, taken in seconds.items()}


def summary(seconds: list[float]) -> dict[str, float]:
    fifths = statistics.quantiles(seconds, n=5, method="inclusive")
    return {
        "median_s": round(statistics.median(seconds), 4),
        "p20_s": round(fifths[0], 4),
        "p80_s": round(fifths[-1], 4),
    }


def extra_memory_mib(case: str, version: str) -> float:
    command = [sys.executable, __file__, "--memory-of", case, version]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_extra_memory(case: str, version: str) -> None:
    inputs = Inputs()
    # One product beforehand, so that the thread pool and its buffers are not counted.
    inputs.student.hidden[:64].detach() @ inputs.student.hidden[:64].detach().T
    # Sets the peak back to what is resident now. (ru_maxrss would not do: it starts at the parent's.)
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_mib("VmRSS")
    VERSIONS[version](inputs, CASES[case]).backward()
    print(memory_mib("VmHWM") - before)  # noqa: T201


def memory_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith(field + ":"))
    return int(kib) / 2**10


def gradients_differ_by(terms: list[HeadTerm]) -> float:
    """The largest difference of a gradient, relative to the largest gradient."""
    inputs, found = Inputs(), []
    for version in VERSIONS.values():
        inputs.forget_gradients()
        version(inputs, terms).backward()
        found.append((inputs.student.hidden.grad, inputs.student.weight.grad))
    pairs = zip(*found, strict=True)
    return max(((a - b).abs().max() / a.abs().max()).item() for a, b in pairs)


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def commit() -> str:
    def git(*args: str) -> str:
        run = subprocess.run(["git", *args], cwd=ROOT, check=True, capture_output=True, text=True)
        return run.stdout.strip()

    measured = ["llmkd/losses", str(Path(__file__).relative_to(ROOT))]
    changed = git("status", "--porcelain", "--", *measured)
    return git("rev-parse", "HEAD") + (" with local changes" if changed else "")


def measure(case: str, repeats: int) -> dict[str, object]:
    times = measure_times(CASES[case], repeats)
    memory = {name: round(extra_memory_mib(case, name), 1) for name in VERSIONS}
    return {
        "time": times,
        "time_ratio": round(times["chunked"]["median_s"] / times["plain"]["median_s"], 3),
        "peak_extra_memory_mib": memory,
        "memory_ratio": round(memory["chunked"] / memory["plain"], 3),
        "largest_relative_gradient_difference": gradients_differ_by(CASES[case]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parent / "results" / "linear_head_cpu.json"
    parser.add_argument("--output", type=Path, default=default)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--memory-of", nargs=2, metavar=("CASE", "VERSION"), help="internal")
    args = parser.parse_args()
    if args.memory_of:
        return print_extra_memory(*args.memory_of)
    result = {
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": {"cpu": cpu_model(), "cores": os.cpu_count()},
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "shapes": SHAPES,
        "dtype": "float32",
        "what": "forward and backward; student's hidden states and head trained, teacher frozen",
        "timed_runs": args.repeats,
        "warm_up_runs": WARM_UP,
        "memory_method": "a fresh process per version: peak resident size (VmHWM, reset before) "
        "of one forward and backward pass, less VmRSS before it; the gradients are included",
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "cases": {case: measure(case, args.repeats) for case in CASES},
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["cases"], indent=2))  # noqa: T201
    return None


if __name__ == "__main__":
    main()
