"""What a training run measures of itself: means between two log lines, and `metrics.jsonl`."""

import json
import math
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmkd.run_folder import write_atomically

STATE_FILE = "step_metrics.json"
"""What is not logged yet, inside a checkpoint."""


class StepMetrics:
    """Gathers the objective's metrics between two log lines.

    Sums stay on the device until a log line or a checkpoint needs them. What has not been logged
    travels with the checkpoint, so that a resumed run logs what an uninterrupted one would.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self.num_steps = 0
        self.sums: dict[str, float] = {}
        self.latest: dict[str, float] = {}
        """Figures that are measured now and then, and logged as they are."""
        self.num_skipped = 0
        """Steps of the training that were left out."""
        self.num_skipped_in_a_row = 0
        self._step: dict[str, Tensor] = {}
        """Of the step under way, which may still be left out."""
        self._pending: dict[str, Tensor] = {}
        self._pending_tokens: list[Tensor] = []
        self._since: tuple[float, int] | None = None

    def begin_step(self, num_positions: Tensor) -> None:
        """Begins a step with its trained positions over all ranks, [num_terms + 1]: the last are all."""
        if self._since is None:
            self._since = (time.perf_counter(), self.tokens)
        self._end_step()
        self.num_steps += 1
        self._pending_tokens.append(num_positions[-1])

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Adds one micro-batch's share of the step's means."""
        for name, value in metrics.items():
            so_far = self._step.get(name)
            self._step[name] = value.clone() if so_far is None else so_far.add_(value)

    def skip_step(self) -> None:
        """Leaves the step under way out of the means and the tokens, and counts it as skipped."""
        self._step, self.num_steps = {}, self.num_steps - 1
        self._pending_tokens.pop()
        self.num_skipped += 1
        self.num_skipped_in_a_row += 1

    def _end_step(self) -> None:
        if not self._step:
            return
        for name, value in self._step.items():
            pending = self._pending.get(name)
            self._pending[name] = value if pending is None else pending.add_(value)
        self._step, self.num_skipped_in_a_row = {}, 0

    def flush(self, accelerator: Accelerator) -> dict[str, float]:
        """Means per step since the last log line, over all ranks; then begins anew."""
        self.collect(accelerator)
        means = {name: value / max(self.num_steps, 1) for name, value in self.sums.items()}
        since, tokens = self._since or (time.perf_counter(), self.tokens)
        elapsed = time.perf_counter() - since
        speed = (self.tokens - tokens) / elapsed if elapsed > 0 else 0.0
        self.sums, self.num_steps, self._since = {}, 0, (time.perf_counter(), self.tokens)
        latest, self.latest = self.latest, {}
        return {
            # Of no step: all of them were skipped.
            "loss": math.nan,
            **means,
            **latest,
            "tokens": self.tokens,
            "tokens_per_s": speed,
            "peak_memory_gib": peak_memory_gib(accelerator.device),
        }

    def collect(self, accelerator: Accelerator) -> None:
        """Adds up, over all ranks, what is still on the devices. Every rank must call it."""
        self._end_step()
        if not self._pending:
            return
        shares = accelerator.reduce(torch.stack(list(self._pending.values())), reduction="sum")
        assert isinstance(shares, Tensor)
        for name, value in zip(self._pending, shares.tolist(), strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.tokens += int(torch.stack(self._pending_tokens).sum())
        self._pending, self._pending_tokens = {}, []

    def save(self, checkpoint: Path) -> None:
        """Writes what is not logged yet beside a checkpoint's weights; `collect` comes first."""
        kept = ("tokens", "num_steps", "sums", "latest", "num_skipped", "num_skipped_in_a_row")
        state = {name: getattr(self, name) for name in kept}
        (checkpoint / STATE_FILE).write_text(json.dumps(state))

    def restore(self, checkpoint: Path) -> None:
        """Takes back what `save` wrote."""
        state = json.loads((checkpoint / STATE_FILE).read_text())
        self.tokens, self.num_steps = state["tokens"], state["num_steps"]
        self.sums, self.latest = state["sums"], state.get("latest", {})
        self.num_skipped = state.get("num_skipped", 0)
        self.num_skipped_in_a_row = state.get("num_skipped_in_a_row", 0)


class JsonLines(TrainerCallback):
    """A file of one JSON object per line, each with its `step`, on the main process.

    Args:
        path: The file. When training begins it is cut back to the checkpoint's step.
    """

    def __init__(self, path: Path):
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Drops the lines of steps that will be taken again, and a line cut short by a crash."""
        if not state.is_world_process_zero:
            return
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        # From the start, what was measured before the first step is measured again.
        last = state.global_step or -1
        kept = [line for line in lines if _step_of(line) <= last]
        write_atomically(self.path, "".join(f"{line}\n" for line in kept))

    def append(self, state: TrainerState, figures: dict[str, Any]) -> None:
        """A line of this step."""
        if state.is_world_process_zero:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": state.global_step, **figures}) + "\n")


class MetricsFile(JsonLines):
    """Appends every log line to `metrics.jsonl`."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Has the last step logged too: a training may end before or between `logging_steps`."""
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """One JSON object per logged step."""
        if logs and "grad_norm" in logs:
            self.append(state, logs)


def peak_memory_gib(device: torch.device) -> float:
    """The most memory held so far: the accelerator's, or on a CPU the process's, in GiB."""
    if device.type != "cpu":
        return torch.accelerator.max_memory_allocated(device) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")
