"""What a teacher in this process takes to score rollouts, against its own bare forward pass.

    python tests/benchmarks/bench_teacher_scoring.py [--rollouts full ragged] [--rounds N] [--output FILE]

Versions, in one process, on the same rollouts, in turn:

- forward: the teacher's backbone on the padded batches, as they come, and its head's matrix product at the completions'
  positions, chunk by chunk into a buffer that is there. No log-softmax: nothing is scored yet.
- ours: `InProcessTeacher.token_logprobs`, as `KDRLTrainer` calls it.

The ratio is the median over rounds of the two times in the same round. `full` is one batch of rollouts
that all have as many tokens; `ragged` two, of between an eighth of them and all. Workspace: a fresh process per number of rollouts,
the growth of the peak over one call, with what the backbone needs.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_teacher_kinds import peak_memory_mib, rounded
from circumstances import RESULTS, circumstances, load_average, save
from transformers import LlamaConfig, LlamaForCausalLM

from llmkd.losses.budgets import rows_of_chunk
from llmkd.teachers.in_process import InProcessTeacher
from llmkd.teachers.rollouts import Rollouts

HIDDEN, LAYERS, VOCAB = 512, 8, 32_000
BATCH, PROMPT, COMPLETION = 8, 128, 384
NUM_ROLLOUTS = {"full": BATCH, "ragged": 2 * BATCH}
NUM_IN_MEMORY = (8, 32)


def teacher() -> InProcessTeacher:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=1376,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
    return InProcessTeacher(LlamaForCausalLM(config), vocab_size=VOCAB)


def rollouts(kind: str, num_rows: int) -> Rollouts:
    torch.manual_seed(1)
    parts = {}
    for name, most in (("prompt", PROMPT), ("completion", COMPLETION)):
        lengths = torch.full((num_rows,), most)
        if kind == "ragged":
            lengths = torch.randint(most // 8, most + 1, (num_rows,))
            lengths[0] = most
        mask = (torch.arange(most) < lengths[:, None]).long()
        parts[f"{name}_mask"] = mask.flip(1) if name == "prompt" else mask
        parts[f"{name}_ids"] = torch.randint(VOCAB, mask.shape)
    return Rollouts(**parts)


def ours(model: InProcessTeacher, some: Rollouts) -> Callable[[], object]:
    kept = some.completion_mask.bool()
    return lambda: model.token_logprobs(some, kept, temperature=1.0, batch_size=BATCH)


def forward(model: InProcessTeacher, some: Rollouts) -> Callable[[], object]:
    weight: Any = model.model.get_output_embeddings().weight
    chunk = rows_of_chunk(BATCH * COMPLETION, 4 * VOCAB, HIDDEN, on_cpu=True)
    buffer = torch.empty(chunk, VOCAB)
    batches = [some.rows(rows) for rows in torch.arange(len(some.prompt_ids)).split(BATCH)]

    @torch.no_grad()
    def run() -> None:
        for batch in batches:
            ids = torch.cat([batch.prompt_ids, batch.completion_ids], 1)
            mask = torch.cat([batch.prompt_mask, batch.completion_mask], 1)
            output = model.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
            kept = batch.completion_mask.bool()
            states = output.last_hidden_state[:, PROMPT - 1 : -1][kept]
            for part in states.split(chunk):
                torch.mm(part, weight.T, out=buffer[: len(part)])

    return run


def compared(kind: str, num_rounds: int) -> dict[str, Any]:
    model, some = teacher(), rollouts(kind, NUM_ROLLOUTS[kind])
    versions = {"forward": forward(model, some), "ours": ours(model, some)}
    seconds: dict[str, list[float]] = {name: [] for name in versions}
    before = load_average()
    for number in range(num_rounds + 2):
        for name, run in versions.items():
            began = time.perf_counter()
            run()
            if number >= 2:
                seconds[name].append(time.perf_counter() - began)
    ratios = np.divide(seconds["ours"], seconds["forward"])
    return {
        "tokens": int(some.prompt_mask.sum() + some.completion_mask.sum()),
        "padded_tokens": NUM_ROLLOUTS[kind] * (PROMPT + COMPLETION),
        "seconds": {name: percentiles(times) for name, times in seconds.items()},
        "ours_over_forward": percentiles(ratios),
        "rounds": num_rounds,
        "load_average": [before, load_average()],
    }


def percentiles(values: Any) -> dict[str, float]:
    p20, median, p80 = np.percentile(values, [20, 50, 80])
    return {"median": rounded(median), "p20": rounded(p20), "p80": rounded(p80)}


def workspace(num_rows: int) -> None:
    """In a process of its own: what one call adds to the peak, in MiB."""
    model = teacher()
    # Threads and their buffers are there before; the first call's own are not.
    ours(model, rollouts("full", 1))
    run, before = ours(model, rollouts("full", num_rows)), peak_memory_mib()
    run()
    print(peak_memory_mib() - before)  # noqa: T201


def fresh(num_rows: int) -> int:
    command = [sys.executable, __file__, "--workspace", str(num_rows)]
    return int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", nargs="*", default=["full", "ragged"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--output", type=Path, default=RESULTS / "teacher_scoring_cpu.json")
    parser.add_argument("--workspace", type=int, help="internal")
    args = parser.parse_args()
    if args.workspace:
        workspace(args.workspace)
        return
    result = {
        **circumstances(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "teacher": {"hidden_size": HIDDEN, "num_layers": LAYERS, "vocab_size": VOCAB},
        "batch": {"rollouts": BATCH, "prompt": PROMPT, "completion": COMPLETION},
        "rollouts": {kind: compared(kind, args.rounds) for kind in args.rollouts},
        "workspace_mib": {str(number): fresh(number) for number in NUM_IN_MEMORY},
        "all_logits_mib": {
            str(number): round(number * COMPLETION * VOCAB * 4 / 2**20) for number in NUM_IN_MEMORY
        },
    }
    save(args.output, result)
    print(json.dumps(result, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
