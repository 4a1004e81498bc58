"""What a model costs: size, arithmetic, speed and memory.

Measured in a process of its own, whose memory is the model's alone:
`python -m llmkd.evaluation.cost MODEL TASK`, both as JSON, prints what it measured.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from llmkd.errors import LlmkdError
from llmkd.evaluation.measured import Estimate, Measured, Setting
from llmkd.evaluation.statistics import bootstrap, bootstrap_ratio
from llmkd.evaluation.subject import Subject
from llmkd.models.kinds import is_seq2seq
from llmkd.recipe.distillation_effects import CostTask
from llmkd.recipe.models import PretrainedModel
from llmkd.teacher_data.transformers_engine import load_for_inference

MIB = 2**20
FIXED = ("parameters", "weights_mib", "flops_per_token", "peak_memory_mib")
SPEEDS = {"prefill_tokens_per_s": "prefill", "decode_tokens_per_s": "decode"}


def measure_cost(subject: Subject, task: CostTask, setting: Setting) -> Measured:
    """Loads the model in another process and measures it there.

    Metrics: `parameters`; `weights_mib`; `flops_per_token`, counted by PyTorch over the prompt
    (two for each multiplication and addition), attention included; `prefill_tokens_per_s`, the prompt
    read at once; `decode_tokens_per_s`, then one token of each sequence at a time;
    `peak_memory_mib`, of the accelerator, or of the whole process where there is none.

    Raises:
        LlmkdError: The process failed.
    """
    arguments = [subject.source.model_dump_json(), task.model_dump_json()]
    command = [sys.executable, "-m", "llmkd.evaluation.cost", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise LlmkdError(f"the process that measures the model failed: {last[0]}")
    found = json.loads(done.stdout.splitlines()[-1])
    setting.progress(1, 1)
    estimates = [
        # Of one number there is nothing to resample.
        Estimate(
            name,
            bootstrap(lambda samples, n=name: np.full(len(samples), float(found[n])), 1, seed=0),
            1,
            is_repeatable=name != "peak_memory_mib",
        )
        for name in FIXED
    ]
    tokens = {"prefill": task.prompt_length, "decode": task.completion_length - 1}
    for metric, part in SPEEDS.items():
        seconds = np.array(found[f"{part}_seconds"])
        numbers = np.full(len(seconds), float(task.batch_size * tokens[part]))
        speed = bootstrap_ratio(numbers, seconds, seed=setting.seed)
        estimates.append(Estimate(metric, speed, len(seconds), is_repeatable=False))
    return Measured(estimates)


def cost_of(model: PreTrainedModel, task: CostTask) -> dict[str, Any]:
    """The numbers of one loaded model, in this process."""
    size = (task.batch_size, task.prompt_length)
    generator = torch.Generator().manual_seed(0)
    vocab_size = model.config.get_text_config().vocab_size
    prompt = torch.randint(vocab_size, size, generator=generator).to(model.device)
    rounds = [_seconds(model, prompt, task) for _ in range(1 + task.num_rounds)][1:]
    weights = {id(p): p for p in model.parameters()}.values()
    return {
        "parameters": sum(p.numel() for p in weights),
        "weights_mib": sum(p.numel() * p.element_size() for p in weights) / MIB,
        # Peak before the count, whose plain attention takes more.
        "peak_memory_mib": _peak_memory(model.device) / MIB,
        "prefill_seconds": [prefill for prefill, _ in rounds],
        "decode_seconds": [decode for _, decode in rounds],
        "flops_per_token": count_flops(model, prompt) / prompt.numel(),
    }


@torch.inference_mode()
def _seconds(model: PreTrainedModel, prompt: torch.Tensor, task: CostTask) -> tuple[float, float]:
    """Of reading the prompts, and of writing all but the first token after them."""
    inputs: dict[str, Any] = {"input_ids": prompt}
    if is_seq2seq(model.config):
        inputs["decoder_input_ids"] = prompt[:, :1]
    started = _now(model.device)
    output = model(**inputs, use_cache=True)
    read = _now(model.device)
    encoded = {"encoder_outputs": (output.encoder_last_hidden_state,)} if len(inputs) > 1 else {}
    name = "decoder_input_ids" if encoded else "input_ids"
    for _ in range(task.completion_length - 1):
        token = output.logits[:, -1:].argmax(2)
        past = output.past_key_values
        output = model(**{name: token}, **encoded, past_key_values=past, use_cache=True)
    return read - started, _now(model.device) - read


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss, which a process takes over from the one that started it.
        lines = status.read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@torch.inference_mode()
def count_flops(model: PreTrainedModel, prompt: torch.Tensor, **more: torch.Tensor) -> int:
    """Of reading a prompt at once; the model then has plain attention.

    Args:
        model: On any device, `meta` among them.
        prompt: Token ids, [B, T].
        **more: Further inputs of the model.
    """
    # PyTorch counts the products of plain attention, not those of every fused kernel.
    model.set_attn_implementation("eager")
    inputs = {"input_ids": prompt, **more}
    if is_seq2seq(model.config):
        inputs["decoder_input_ids"] = prompt
    with FlopCounterMode(display=False) as counter:
        model(**inputs, use_cache=False)
    return counter.get_total_flops()


def main() -> None:
    """Measures the model of the command line and prints the numbers."""
    source = PretrainedModel.model_validate_json(sys.argv[1])
    task = CostTask.model_validate_json(sys.argv[2])
    model, _ = load_for_inference(source)
    print(json.dumps(cost_of(model, task)))  # noqa: T201


if __name__ == "__main__":
    main()
