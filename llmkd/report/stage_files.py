"""What stages write for the report: details of evaluate stages, counts of all others.

Every field may be missing, so that the report reads what older and newer versions wrote.
"""

import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0, le=2**62)]
"""No more than floats and charts can take."""

Measure = Annotated[float, Field(ge=-1e30, le=1e30, allow_inf_nan=False)]


class Part(BaseModel):
    """A piece of such a file; what it does not know, it leaves alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Answer(Part):
    """What one model answered."""

    text: str = ""
    num_tokens: Count | None = None
    is_right: bool | None = None
    """None where a task has no right and wrong."""


class Sample(Part):
    """One example with the answers of all models."""

    task: str
    example: int
    prompt: str
    reference: str | None = None
    answers: dict[str, Answer] = {}


class Lengths(Part):
    """How long a model's answers to a task are."""

    task: str
    model: str
    counts: list[tuple[Count, Count]] = []
    """Tokens, and how many answers have so many."""


class Bin(Part):
    """Predictions of about the same confidence."""

    confidence: float | None = None
    accuracy: float | None = None
    count: Count = 0


class Reliability(Part):
    """How often a model is right, by how sure it was."""

    task: str
    model: str
    bins: list[Bin] = []

    @property
    def points(self) -> list[tuple[float, float, int]]:
        """(confidence, accuracy, count) of the bins that hold anything."""
        found = [
            (bin.confidence, bin.accuracy, bin.count)
            for bin in self.bins
            if bin.count and bin.confidence is not None and bin.accuracy is not None
        ]
        return sorted(point for point in found if all(map(math.isfinite, point)))

    @property
    def calibration_error(self) -> float | None:
        """ECE: mean of |accuracy - confidence| over predictions; None without any.

        References:
            Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning".
        """
        total = sum(count for *_, count in self.points)
        errors = (n * abs(accuracy - confidence) for confidence, accuracy, n in self.points)
        return sum(errors) / total if total else None


class Difference(Part):
    """A model minus the baseline on the same examples."""

    suite: str
    task: str
    metric: str
    model: str
    baseline: str
    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    verdict: str = ""


class Details(Part):
    """`details.json`: single answers, how sure the models were, and how they differ."""

    samples: list[Sample] = []
    lengths: list[Lengths] = []
    reliability: list[Reliability] = []
    differences: list[Difference] = []
    parameters: dict[str, Count] = {}
    """Of each model that was loaded."""


class Source(Part):
    """One data set of a mixture."""

    name: str
    num_rows: Count | None = None
    num_available: Count | None = None


class DataCounts(Part):
    """`data.json`: what became of a train stage's rows."""

    num_rows: Count | None = None
    """Kept rows."""
    num_tokens: Count | None = None
    num_trained_tokens: Count | None = None
    longest: Count | None = None
    num_truncated: Count | None = None
    num_dropped: Count | None = None
    num_tokens_cut: Count | None = None
    num_sequences: Count | None = None
    """After packing."""
    lengths: list[tuple[Count, Count]] = []
    """Upper edge in tokens, and rows up to it: lengths before cutting."""
    sources: list[Source] = []


class Generation(Part):
    """`generation.json`: what became of a generate stage's prompts."""

    num_prompts: Count | None = None
    num_completions: Count | None = None
    num_kept: Count | None = None


class StepCounts(Part):
    """One step of a curate stage."""

    kind: str = ""
    num_in: Count = 0
    num_out: Count = 0
    dropped: dict[str, Count] = {}
    """Rows, by the reason why they did not stay."""
    counted: dict[str, Count] = {}
    """What else the step did."""


class Pruning(Part):
    """`pruning.json`: what a prune stage measured and cut."""

    num_examples: Count | None = None
    """Calibration rows; None where nothing was measured."""
    block_influence: list[Measure] = []
    """Of each layer."""
    angular_distances: list[list[Measure]] = []
    """Of each number of neighbouring layers, from 1: by the first layer."""
    removed_layers: list[Count] = []
    before: dict[str, Measure] = {}
    after: dict[str, Measure] = {}


class Curation(Part):
    """`curation.json`: what became of a curate stage's rows."""

    num_in: Count = 0
    num_out: Count = 0
    steps: list[StepCounts] = []


class LayerCosines(Part):
    """How far a layer's tensors are from those of the first model."""

    layer: Count | None = None
    """None for what is in no layer."""
    model: str = ""
    """Where the recipe names the other model."""
    mean: float = math.nan
    lowest: float = math.nan
    lowest_tensor: str = ""


class Merging(Part):
    """`model/merge.json`: what a merge stage made, and of what."""

    num_tensors: Count | None = None
    num_interpolated_linearly: Count | None = None
    """Of slerp alone."""
    cosines: list[LayerCosines] = []
