"""A step of KDRL: where its time goes, and how much memory it takes. Random weights.

    python tests/benchmarks/bench_kdrl_step.py [--shapes small|gpu] [--steps N] [--output FILE]

`small` is for a CPU, in a minute or two. `gpu` has the shapes of Qwen2.5-0.5B (student) and Qwen2.5-1.5B
(teacher) in bfloat16, and is for one accelerator. Each version is a training in a process of its own:

- grpo: no teacher.
- k2: a teacher beside the student.
- k2_offloaded: whose weights are on the CPU between batches. On a CPU that is the same as k2.
- full_vocabulary: asked in the update, about whole distributions.

Seconds are of the steps after the first two, their medians; `step` is from the step's begin to its end,
measured beside the trainer's own clock. Memory is the process's peak (on an accelerator: the
allocator's). Random students do not stop by themselves, so every response has the greatest length.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from bench_teacher_kinds import peak_memory_mib, rounded
from circumstances import RESULTS, circumstances, save
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, TrainerCallback
from trl import GRPOConfig

from llmkd.teachers.in_process import InProcessTeacher
from llmkd.training.kdrl_trainer import Distillation, KDRLTrainer
from llmkd.training.step_clock import PARTS

WARM_UP = 2
VERSIONS: dict[str, dict[str, Any] | None] = {
    "grpo": None,
    "k2": {},
    "k2_offloaded": {"is_offloaded": True},
    "full_vocabulary": {"estimator": "full_vocabulary"},
}
# Hidden size, layers, heads, heads of keys and values, size between.
SHAPES: dict[str, dict[str, Any]] = {
    "small": {
        "vocab_size": 4096,
        "student": (128, 4, 4, 2, 512),
        "teacher": (256, 6, 4, 2, 1024),
        "prompt": 32,
        "completion": 48,
        "batch": 8,
        "accumulation": 2,
    },
    "gpu": {
        "vocab_size": 151_936,
        "student": (896, 24, 14, 2, 4864),
        "teacher": (1536, 28, 12, 2, 8960),
        "prompt": 256,
        "completion": 1024,
        "batch": 8,
        "accumulation": 4,
    },
}


def model(shape: str, which: str) -> Qwen2ForCausalLM:
    hidden, layers, heads, kv_heads, between = SHAPES[shape][which]
    config = Qwen2Config(
        vocab_size=SHAPES[shape]["vocab_size"],
        hidden_size=hidden,
        intermediate_size=between,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=True,
        eos_token_id=0,
        pad_token_id=1,
        bos_token_id=None,
    )
    torch.manual_seed(0 if which == "student" else 1)
    made = Qwen2ForCausalLM(config)
    # As a recipe would have them: the student in float32 under bf16, the teacher in bfloat16.
    return made.bfloat16() if shape == "gpu" and which == "teacher" else made


def tokenizer(shape: str) -> PreTrainedTokenizerFast:
    words = {f"w{number}": number for number in range(SHAPES[shape]["vocab_size"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="w2"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w0", pad_token="w1")


def prompts(shape: str) -> datasets.Dataset:
    size, length = SHAPES[shape]["vocab_size"], SHAPES[shape]["prompt"]
    ids = np.random.default_rng(0).integers(2, size, (64, length))
    return datasets.Dataset.from_list(
        [{"prompt": " ".join(f"w{number}" for number in row)} for row in ids.tolist()]
    )


def is_even(completions: list[str], **_: Any) -> list[float]:
    return [float(int(text.split()[0].removeprefix("w")) % 2 == 0) for text in completions]


class StepTimes(TrainerCallback):
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)


def train(shape: str, version: str, steps: int) -> dict[str, Any]:
    """In a process of its own."""
    sizes, times, asked = SHAPES[shape], StepTimes(), VERSIONS[version]
    with tempfile.TemporaryDirectory() as folder:
        trainer = KDRLTrainer(
            distillation=None if asked is None else distillation(shape, **asked),
            model=model(shape, "student"),
            reward_funcs=is_even,
            args=GRPOConfig(
                output_dir=folder,
                max_steps=WARM_UP + steps,
                per_device_train_batch_size=sizes["batch"],
                gradient_accumulation_steps=sizes["accumulation"],
                num_generations=sizes["batch"],
                max_completion_length=sizes["completion"],
                learning_rate=1e-6,
                logging_steps=1,
                bf16=shape == "gpu",
                gradient_checkpointing=shape == "gpu",
                use_cpu=not torch.accelerator.is_available(),
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=prompts(shape),
            processing_class=tokenizer(shape),
            callbacks=[times],
        )
        trainer.train()
    lines = [line for line in trainer.state.log_history if "time/update" in line][WARM_UP:]
    spent = {part: [line[f"time/{part}"] for line in lines] for part in PARTS}
    step = times.seconds[WARM_UP:]
    return {
        "seconds": {part: rounded(np.median(values)) for part, values in spent.items()}
        | {"step": rounded(np.median(step))},
        "parts_over_step": rounded(np.median(np.sum([*spent.values()], axis=0) / step)),
        "peak_memory_mib": peak_mib(),
    }


def distillation(shape: str, *, is_offloaded: bool = False, estimator: Any = "k2") -> Distillation:
    teacher = InProcessTeacher(
        model(shape, "teacher"),
        vocab_size=SHAPES[shape]["vocab_size"],
        is_offloaded=is_offloaded,
    )
    return Distillation(teacher, estimator=estimator)


def peak_mib() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() // 2**20
    return peak_memory_mib()


def fresh(shape: str, version: str, steps: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--run", shape, version, str(steps)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", choices=SHAPES, default="small")
    parser.add_argument("--versions", nargs="*", choices=VERSIONS, default=[*VERSIONS])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--run", nargs=3, help="internal")
    args = parser.parse_args()
    if args.run:
        shape, version, steps = args.run
        print(json.dumps(train(shape, version, int(steps))))  # noqa: T201
        return
    on = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    result = {
        **circumstances(),
        "device": on,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "steps": args.steps,
        "shapes": SHAPES[args.shapes],
        "versions": {version: fresh(args.shapes, version, args.steps) for version in args.versions},
    }
    save(args.output or RESULTS / f"kdrl_step_{args.shapes}.json", result)
    print(json.dumps(result, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
