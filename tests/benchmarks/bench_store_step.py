"""A training step from a teacher store, against plain fine-tuning and the loss's own time.

    python tests/benchmarks/bench_store_step.py [--output FILE] [--shapes small large] [--rounds N]

In one process, on one model, every round on the same batch:

- a, `plain`: batch, cross-entropy as transformers computes it, backward, AdamW.
- b, `loss`: what forward KL from the store's targets takes beyond that cross-entropy, both forward and
  backward from the same hidden states to these and the head, the targets ready in memory.
- c, `store`: a, with the targets read from the store, and forward KL from these as the loss.

A round does a, the two halves of b, and c one after the other, in an order that turns; c / (a + b) is
taken of each round, and the median of these is what is asked for. `reading` is the part of c in which
the batch is made, less that of a: positions per second of it are what a training with default settings
sees, in the process that trains.

Rows of 100 to 256 tokens, all predicted; random rows of the store, which is in the page cache.
Teachers are `zipf_teacher`'s.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from circumstances import RESULTS, circumstances, save
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from zipf_teacher import ZipfTeacher, draw_of, sampled_of, top_k_of

from llmkd.build_objective import build_objective
from llmkd.data.collate import Collator
from llmkd.losses.signals import LinearHead
from llmkd.models.signals import signals
from llmkd.objective import Objective, trained
from llmkd.recipe.schema import TrainStage
from llmkd.teacher_data.store import Store, StoreRow, StoreSettings, StoreWriter, tokens_key
from llmkd.teachers.captured import CapturedTeacher, WithTeacher, selected
from llmkd.teachers.store import StoreSource

SHAPES: dict[str, dict[str, Any]] = {
    # The batch is that of recipes/tinystories.yaml; with the large one a step should not take long.
    "small": {"vocab_size": 512, "hidden_size": 128, "batch_size": 16},
    "large": {"vocab_size": 32_000, "hidden_size": 256, "batch_size": 4},
}
CAPTURES = {
    "top 16": {"kind": "top_k", "top_k": 16, "temperature": 1.0, "precision": "quantised"},
    "top 50": {"kind": "top_k", "top_k": 50, "temperature": 1.0, "precision": "quantised"},
    "50 draws": {"kind": "sampled", "num_samples": 50, "temperature": 1.0},
}
ROWS, POOL, LENGTHS = 2000, 2048, (100, 256)
WARM_UP = 3


def model_of(shape: dict[str, Any]) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape["vocab_size"],
        hidden_size=shape["hidden_size"],
        intermediate_size=4 * shape["hidden_size"],
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=512,
    )
    return LlamaForCausalLM(config)


def pools(vocab_size: int) -> dict[str, Any]:
    """So many positions of each capture, of which rows take a stretch."""
    teacher, draw = ZipfTeacher.of_size(vocab_size), np.random.default_rng(1)
    log_probs = [teacher.log_probs(64, draw) for _ in range(0, POOL, 64)]
    whole = np.concatenate(log_probs)
    labels = draw_of(whole, 1, draw)[:, 0]
    return {
        "top 16": top_k_of(whole, labels, 16),
        "top 50": top_k_of(whole, labels, 50),
        "50 draws": sampled_of(whole, labels, 50, draw),
    }


def rows(vocab_size: int) -> list[dict[str, Any]]:
    """Examples as the tokenized cache gives them."""
    draw = np.random.default_rng(2)
    texts = [draw.integers(vocab_size, size=draw.integers(*LENGTHS)).tolist() for _ in range(ROWS)]
    return [
        {"input_ids": ids, "trained_spans": [1, len(ids)], "tokens_key": tokens_key(ids)}
        for ids in texts
    ]


def write(
    folder: Path, capture: dict[str, Any], examples: list[dict[str, Any]], pool: Any, size: int
) -> None:
    settings = StoreSettings(
        kind="scored",
        teacher="zipf",
        teacher_digest="",
        tokenizer_digest="",
        vocab_size=size,
        engine="transformers",
        seed=0,
        data_digest="",
        num_rows=len(examples),
        rows_per_shard=256,
        capture=capture,
    )

    def row(number: int) -> StoreRow:
        example = examples[number]
        start, length = number * 37 % (POOL - LENGTHS[1]), len(example["input_ids"])
        return StoreRow(
            number=number,
            sample=0,
            tokens_key=example["tokens_key"],
            token_ids=np.array(example["input_ids"], np.int32),
            spans=example["trained_spans"],
            positions=selected(pool, np.arange(start, start + length - 1)),
        )

    with StoreWriter(folder, settings) as writer:
        for number in list(writer.missing):
            writer.write(number, map(row, writer.rows_of(number)))
        writer.finish()


def objective() -> Objective:
    stage = TrainStage.model_validate(
        {
            "kind": "train",
            "student": {"kind": "scratch", "config": {"model_type": "llama"}},
            "teacher": {"kind": "store", "path": "store"},
            "data": {"kind": "task", "num_examples": 1},
            "losses": [{"kind": "forward_kl"}],
        }
    )
    return build_objective(stage, max_steps=1, compute_dtype=None)


@dataclass
class Arms:
    """What is timed, on one model and one store."""

    model: LlamaForCausalLM
    store: Store
    vocab_size: int

    def __post_init__(self) -> None:
        self.collate = Collator(pad_token_id=0)
        self.with_teacher = WithTeacher(self.collate, StoreSource(self.store))
        self.teacher = CapturedTeacher(temperature=1.0)
        self.objective = objective()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)

    def plain(self, examples: list[Any]) -> tuple[float, float]:
        """Seconds of the step, and of making its batch."""
        started = time.perf_counter()
        batch = self.collate(examples)
        made = time.perf_counter()
        loss: Any = self.model(
            batch["input_ids"],
            attention_mask=batch["attention_mask"],
            shift_labels=batch["target_ids"],
            labels=batch["target_ids"],
        ).loss
        self._update(loss)
        return time.perf_counter() - started, made - started

    def stored(self, examples: list[Any]) -> tuple[float, float]:
        started = time.perf_counter()
        batch = self.with_teacher(examples)
        made = time.perf_counter()
        kept = trained(batch["target_ids"])
        head = signals(self.model, self.model, batch, kept, self.vocab_size)
        self._update(self._kl(head, batch, kept))
        return time.perf_counter() - started, made - started

    def halves(self, examples: list[Any]) -> list[Callable[[], float]]:
        """The two losses' own steps, each from hidden states that are there."""
        batch = self.with_teacher(examples)
        with torch.no_grad():
            hidden = self.model.model(batch["input_ids"], batch["attention_mask"])[0]
        return [
            partial(self._of_labels, hidden.requires_grad_(), batch),
            partial(self._of_store, hidden.detach().requires_grad_(), batch),
        ]

    def _of_labels(self, hidden: Tensor, batch: dict[str, Tensor]) -> float:
        started = time.perf_counter()
        logits = self.model.lm_head(hidden)
        loss = self.model.loss_function(
            logits=logits,
            labels=batch["target_ids"],
            shift_labels=batch["target_ids"],
            vocab_size=self.vocab_size,
        )
        return self._backward(loss, started)

    def _of_store(self, hidden: Tensor, batch: dict[str, Tensor]) -> float:
        started = time.perf_counter()
        kept = trained(batch["target_ids"])
        head = LinearHead(hidden[kept], self.model.lm_head.weight)
        return self._backward(self._kl(head, batch, kept), started)

    def _backward(self, loss: Tensor, started: float) -> float:
        loss.backward()
        seconds = time.perf_counter() - started
        self.optimizer.zero_grad()
        return seconds

    def _kl(self, head: Any, batch: dict[str, Tensor], kept: Tensor) -> Tensor:
        return self.objective(
            head,
            self.teacher.signals(batch, kept),
            batch["target_ids"][kept],
            num_positions=self.objective.count_positions(batch["target_ids"]),
            step=0,
        ).loss

    def _update(self, loss: Tensor) -> None:
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def round_of(arms: Arms, examples: list[Any], turn: int) -> dict[str, float]:
    of_labels, of_store = arms.halves(examples)
    timed: dict[str, Callable[[], Any]] = {
        "plain": lambda: arms.plain(examples),
        "of_labels": of_labels,
        "of_store": of_store,
        "store": lambda: arms.stored(examples),
    }
    names = list(timed)
    found = {name: timed[name]() for name in [*names[turn % 4 :], *names[: turn % 4]]}
    (plain, collating), (store, making) = found["plain"], found["store"]
    loss = found["of_store"] - found["of_labels"]
    num_positions = sum(len(row["input_ids"]) - 1 for row in examples)
    return {
        "plain_s": plain,
        "loss_s": loss,
        "store_s": store,
        "reading_s": making - collating,
        "store_to_plain_and_loss": store / (plain + loss),
        "plain_tokens_per_s": num_positions / plain,
        "positions_read_per_s": num_positions / (making - collating),
    }


def measure(arms: Arms, examples: list[Any], batch_size: int, rounds: int) -> dict[str, Any]:
    order = np.random.default_rng(3)
    found = [
        round_of(arms, [examples[i] for i in order.choice(ROWS, batch_size, False)], turn)
        for turn in range(WARM_UP + rounds)
    ][WARM_UP:]
    return {name: spread([one[name] for one in found]) for name in found[0]}


def spread(values: list[float]) -> dict[str, float]:
    p20, median, p80 = (float(f"{x:.4g}") for x in np.percentile(values, [20, 50, 80]))
    return {"median": median, "p20": p20, "p80": p80}


def measure_shape(shape: dict[str, Any], rounds: int) -> dict[str, Any]:
    vocab_size, model = shape["vocab_size"], model_of(shape)
    examples, captured = rows(vocab_size), pools(vocab_size)
    result: dict[str, Any] = {**shape, "parameters": model.num_parameters()}
    for name, capture in CAPTURES.items():
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), capture, examples, captured[name], vocab_size)
            arms = Arms(model, Store.open(folder), vocab_size)
            result[name] = measure(arms, examples, shape["batch_size"], rounds)
        print(name, result[name], flush=True)  # noqa: T201
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = RESULTS / "store_step_cpu.json"
    parser.add_argument("--output", type=Path, default=default)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    result = {
        **circumstances(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "shapes": {name: measure_shape(SHAPES[name], args.rounds) for name in args.shapes},
    }
    save(args.output, result)


if __name__ == "__main__":
    main()
