"""What lies behind the numbers: sample answers, lengths, and how far probabilities can be trusted.

`details.json` stands beside an evaluate stage's results:

    samples      prompts with what every model answered
    lengths      how many answers have how many tokens, end-of-text token included
    reliability  predictions of tokens or labels, in bins of the favourite's probability
    parameters   of each model
    differences  models minus the first one on the same examples, with a word on whether it is noise
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmkd.evaluation.results import without_nan
from llmkd.run_folder import write_atomically


@dataclass(frozen=True)
class Sample:
    """One model's answer to one prompt."""

    example: int
    """The row, in the order of the data."""
    prompt: str
    reference: str | None
    """What a right answer looks like, or how the text goes on."""
    text: str
    """What the model wrote, without special tokens."""
    num_tokens: int | None
    """Tokens generated, the end-of-text token included; None of a label."""
    is_right: bool | None
    """None where nothing is right or wrong."""


@dataclass(frozen=True)
class Bin:
    """Predictions of which the model was about equally sure."""

    confidence: float
    """Mean probability of the token, or label, that the model found most likely."""
    accuracy: float
    """Share in which that was right."""
    count: int


@dataclass(frozen=True)
class TaskDetails:
    """One model on one task; empty is what the task does not have."""

    samples: Sequence[Sample] = ()
    lengths: Sequence[int] = ()
    """Tokens of every answer."""
    bins: Sequence[Bin] = ()


@dataclass
class Details:
    """All models on all tasks, as `details.json` has them."""

    samples: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    """By task and example: every model answers the same."""
    lengths: list[dict[str, Any]] = field(default_factory=list)
    reliability: list[dict[str, Any]] = field(default_factory=list)
    differences: list[dict[str, Any]] = field(default_factory=list)
    """As `llmkd.evaluation.differences.Difference` has them."""

    parameters: dict[str, int] = field(default_factory=dict)
    """Of each model that was loaded."""

    def add(self, found: TaskDetails, *, task: str, model: str) -> None:
        """Adds what one model gave on one task."""
        for sample in found.samples:
            content = asdict(sample)
            answer = {key: content.pop(key) for key in ("text", "num_tokens", "is_right")}
            blank = {"task": task, **content, "answers": {}}
            entry = self.samples.setdefault((task, sample.example), blank)
            entry["answers"][model] = answer
        if found.lengths:
            counts = [list(pair) for pair in sorted(Counter(found.lengths).items())]
            self.lengths.append({"task": task, "model": model, "counts": counts})
        if found.bins:
            bins = [asdict(one) for one in found.bins]
            self.reliability.append({"task": task, "model": model, "bins": bins})

    def as_data(self) -> dict[str, Any]:
        """The content of `details.json`."""
        return {
            "samples": list(self.samples.values()),
            "lengths": self.lengths,
            "reliability": self.reliability,
            "differences": self.differences,
            "parameters": self.parameters,
        }


def read_differences(path: Path) -> list[dict[str, Any]]:
    """The differences in a details.json; none where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8"))["differences"] if path.exists() else []


def write_details(path: Path, details: Details) -> None:
    """Writes details.json, whole or not at all."""
    content = json.dumps(without_nan(details.as_data()), indent=2, ensure_ascii=False)
    write_atomically(path, content + "\n")
