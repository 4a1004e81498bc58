"""What a curate stage says of itself: `curation.json`."""

import json
from dataclasses import dataclass
from pathlib import Path

from llmkd.curation.tally import Tally
from llmkd.recipe.curation import CurateStage

MANIFEST = "curation.json"


@dataclass(frozen=True)
class Manifest:
    """What became of a stage's rows."""

    num_in: int
    """Rows of the data."""
    num_out: int
    """Rows that are left."""
    seconds: float
    """What the last attempt took."""
    tallies: list[Tally]
    """Of each step, in order."""

    def text(self, stage: CurateStage) -> str:
        """As JSON, with the steps' settings."""
        steps = [
            {**tally.as_data(), "settings": step.model_dump(mode="json", exclude={"kind"})}
            for tally, step in zip(self.tallies, stage.steps, strict=True)
        ]
        content = {"num_in": self.num_in, "num_out": self.num_out, "seconds": self.seconds}
        return json.dumps({**content, "steps": steps}, indent=2, ensure_ascii=False) + "\n"


def kept_fraction(folder: Path) -> float:
    """The fraction of its rows that a stage kept, from 0 to 1."""
    content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return min(1.0, content["num_out"] / content["num_in"]) if content["num_in"] else 1.0
