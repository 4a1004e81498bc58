"""What a teacher beside the student, in a store, and behind a server costs: disk, memory, time.

    python tests/benchmarks/bench_teacher_kinds.py --model FOLDER --data FOLDER [--vllm PYTHON] [--steps N]

The student, stories and batches of recipes/tinystories.yaml, its teacher stories260K; each training is a
process of its own. Store and server give the 16 likeliest tokens of 512. Times are of steps after the
first five, everything that a step does included; memory is the training process's peak, and a server's
own is not in it, though both share the machine's processor.

The server needs vLLM, in an interpreter of its own if need be (`--vllm`), and vLLM's kernels for a CPU take
heads of 32 numbers and more. It is given a model with the same logits, whose heads have zeros beside
stories260K's 8 numbers (`with_wide_heads`).
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from circumstances import RESULTS, circumstances, save
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, TrainerCallback

from llmkd.objective import trained
from llmkd.recipe import load
from llmkd.recipe.schema import ScoreStage, TrainStage
from llmkd.teacher_data.capture import run_capture
from llmkd.teacher_data.places import open_store
from llmkd.teacher_data.vllm_faults import EVERYWHERE, ON_A_CPU
from llmkd.training.train import build_trainer

TOP_K, HEAD, WARM_UP = 16, 32, 5


def stage_of(model: str, data: str, teacher: dict[str, Any], steps: int) -> TrainStage:
    recipe = load(
        "tinystories",
        [
            f"stages.student.teacher.model_name_or_path={model}",
            f"stages.twin.student.tokenizer_name_or_path={model}",
            f"stages.student.data.dataset_name={data}",
            f"stages.student.trainer.max_steps={WARM_UP + steps}",
        ],
    )
    stage = recipe.stages["student"]
    assert isinstance(stage, TrainStage)
    return TrainStage.model_validate({**stage.model_dump(), "teacher": teacher})


class StepTimes(TrainerCallback):
    """Seconds of each step, with the wait for its batch."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


def train(stage: TrainStage, folder: Path) -> dict[str, Any]:
    """In a process of its own."""
    trainer, times = build_trainer(stage, folder, seed=0), StepTimes()
    trainer.add_callback(times)
    num_positions = list[int]()
    count = trainer.objective.count_positions

    def counted(target_ids: Tensor, part_ids: Tensor | None) -> Tensor:
        num_positions.append(int(trained(target_ids).sum()))
        return count(target_ids, part_ids)

    trainer.objective.count_positions = counted
    trainer.train()
    seconds = np.diff(times.ends)[WARM_UP - 1 :]
    p20, median, p80 = np.percentile(seconds, [20, 50, 80])
    return {
        "seconds_per_step": {"median": rounded(median), "p20": rounded(p20), "p80": rounded(p80)},
        "tokens_per_s": round(sum(num_positions[WARM_UP:]) / seconds.sum()),
        "peak_memory_mib": peak_memory_mib(),
    }


def peak_memory_mib() -> int:
    """Of this process, and not of the one that started it, as getrusage would have it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def rounded(value: float) -> float:
    return float(f"{value:.3g}")


def fresh(stage: TrainStage, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--stage", stage.model_dump_json(), str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def capture(model: str, stage: TrainStage, folder: Path) -> dict[str, Any]:
    score = ScoreStage.model_validate(
        {
            "kind": "score",
            "teacher": {"model_name_or_path": model},
            "data": stage.data.model_dump(),
            "engine": {"kind": "transformers", "batch_size": 32},
            "capture": {"kind": "top_k", "top_k": TOP_K},
        }
    )
    started = time.monotonic()
    run_capture(score, folder, seed=0, progress=lambda done, total, **figures: None)
    counts = open_store(folder).counts
    return {
        "capture_s": round(time.monotonic() - started, 1),
        "disk_mib": round(counts.num_bytes / 2**20, 1),
        "positions": counts.num_positions,
        "bytes_per_position": round(counts.num_bytes / counts.num_positions, 1),
    }


def with_wide_heads(folder: str, wide: Path) -> None:
    """Saves the same function with heads of 32 numbers instead of 8.

    Rotary frequencies are powers of 1 / the head's size, so that number i of a half stands at 4 i of the
    wider one; queries are doubled, as attention divides by the root of the size. All else is 0.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    narrow = model.config.head_dim
    config = type(model.config)(**{**model.config.to_dict(), "head_dim": HEAD})
    wider: Any = LlamaForCausalLM(config)
    wider.load_state_dict(
        {name: x for name, x in model.state_dict().items() if "self_attn" not in name}, strict=False
    )
    half = torch.arange(narrow // 2) * (HEAD // narrow)
    turned, plain = torch.cat([half, half + HEAD // 2]), torch.arange(narrow)
    for old, new in zip(model.model.layers, wider.model.layers, strict=True):
        a, b = old.self_attn, new.self_attn
        with torch.no_grad():
            scale = (HEAD / narrow) ** 0.5
            b.q_proj.weight.copy_(spread_rows(a.q_proj.weight * scale, turned))
            b.k_proj.weight.copy_(spread_rows(a.k_proj.weight, turned))
            b.v_proj.weight.copy_(spread_rows(a.v_proj.weight, plain))
            b.o_proj.weight.copy_(spread_rows(a.o_proj.weight.T, plain).T)
    ids = torch.arange(1, 201)[None]
    torch.testing.assert_close(wider(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
    wider.save_pretrained(wide)
    AutoTokenizer.from_pretrained(folder).save_pretrained(wide)


def spread_rows(weight: Tensor, places: Tensor) -> Tensor:
    """Each head's rows at their places among 32, zeros elsewhere."""
    heads = weight.reshape(-1, len(places), weight.shape[1])
    wide = heads.new_zeros(len(heads), HEAD, weight.shape[1])
    wide[:, places] = heads
    return wide.reshape(-1, weight.shape[1])


@contextmanager
def served(python: str, model: Path, log: Path) -> Iterator[str]:
    """A running `vllm serve` of the model; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-logprobs", str(TOP_K)]
    environment = os.environ | EVERYWHERE | ON_A_CPU
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/health", process)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def wait_for(url: str, process: subprocess.Popen) -> None:
    for _ in range(240):
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except OSError:
            assert process.poll() is None, "the server ended"
            time.sleep(1)
    raise TimeoutError(url)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    model = args.model
    in_process = stage_of(model, args.data, {"model_name_or_path": model}, args.steps)
    store = {"kind": "store", "path": str(folder / "store")}
    found: dict[str, Any] = {
        "store": capture(model, in_process, folder / "store")
        | fresh(stage_of(model, args.data, store, args.steps), folder / "of_store"),
        "in_process": fresh(in_process, folder / "of_teacher"),
    }
    if args.vllm:
        wide = folder / "wide"
        with_wide_heads(model, wide)
        with served(args.vllm, wide, folder / "log") as url:
            server = {"kind": "server", "base_url": url}
            teacher = {"kind": "server", "model_name_or_path": str(wide), "server": server}
            stage = stage_of(model, args.data, teacher | {"top_k": TOP_K}, args.steps)
            found["server"] = fresh(stage, folder / "of_server")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--vllm", metavar="PYTHON", help="an interpreter that has vLLM")
    parser.add_argument("--steps", type=int, default=30)
    default = RESULTS / "teacher_kinds_cpu.json"
    parser.add_argument("--output", type=Path, default=default)
    parser.add_argument("--stage", nargs=2, help="internal")
    args = parser.parse_args()
    if args.stage:
        stage = TrainStage.model_validate_json(args.stage[0])
        print(json.dumps(train(stage, Path(args.stage[1]))))  # noqa: T201
        return
    begun = circumstances()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args, Path(folder))
    result = {
        **begun,
        "command": f"{Path(sys.argv[0]).name} --model MODEL --data DATA --vllm PYTHON --steps {args.steps}",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "top_k": TOP_K,
        "teachers": found,
    }
    save(args.output, result)
    print(json.dumps(result, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
