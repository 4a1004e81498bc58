"""How long `llmkd check` takes in a fresh process: per shipped recipe, and with 150,000 tokens.

The last is a recipe of two local models that share a byte-level BPE tokenizer of that many tokens, and
of 1,000 local rows, which is where reading takes longest.

python tests/benchmarks/bench_check.py [--output FILE] [--repeats N]
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from circumstances import RESULTS, circumstances, save
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llmkd.recipe.shipped import shipped_recipes


def large_tokenizers(folder: Path) -> Path:
    """Writes two models with copies of one tokenizer, rows, and the recipe."""
    draw = random.Random(0)
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    known, merges = set(tokens), []
    while len(tokens) < 150_000:
        pair = draw.choice(tokens), draw.choice(tokens[:2000])
        if len("".join(pair)) < 12 and "".join(pair) not in known:
            known.add("".join(pair))
            tokens.append("".join(pair))
            merges.append(pair)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=tokens[0])
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=len(tokens), num_attention_heads=1))
    for name in ("student", "teacher"):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    row = json.dumps({"text": "some words of text " * 40}) + "\n"
    (folder / "rows.jsonl").write_text(row * 1000)
    recipe = folder / "large.yaml"
    recipe.write_text(
        f"name: large\nkind: train\nstudent: {{model_name_or_path: {folder}/student}}\n"
        f"teacher: {{model_name_or_path: {folder}/teacher}}\n"
        f"data: {{dataset_name: {folder}/rows.jsonl}}\nlosses: [{{kind: forward_kl}}]\n"
    )
    return recipe


def seconds(recipe: Path) -> float:
    command = [sys.executable, "-m", "llmkd", "check", str(recipe)]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def measure(recipe: Path, repeats: int) -> dict[str, float]:
    seconds(recipe)
    times = sorted(seconds(recipe) for _ in range(repeats))
    return {
        "median_s": round(statistics.median(times), 3),
        "p20_s": round(times[repeats // 5], 3),
        "p80_s": round(times[repeats * 4 // 5], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = RESULTS / "check_cpu.json"
    parser.add_argument("--output", type=Path, default=default)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    begun = circumstances()
    with tempfile.TemporaryDirectory() as name:
        large = measure(large_tokenizers(Path(name)), args.repeats)
    result = {
        **begun,
        "repeats": args.repeats,
        "recipes": {path.stem: measure(path, args.repeats) for path in shipped_recipes()},
        "two models with 150,000 tokens": large,
    }
    save(args.output, result)
    print(json.dumps(result, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
