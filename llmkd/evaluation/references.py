"""Published numbers with their sources: shown beside what was measured, and never mixed in."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from llmkd.evaluation.metric_names import is_share
from llmkd.evaluation.results import Record, number_text
from llmkd.recipe.shipped import shipped_folder


@dataclass(frozen=True)
class Published:
    """A number that others measured, with their own code and settings."""

    model: str
    suite: str
    task: str
    metric: str
    value: float
    """In the metric's own unit: a share between 0 and 1."""
    title: str
    """Of the source."""
    url: str

    @property
    def text(self) -> str:
        """The value for people, shares in percent."""
        return f"{100 * self.value:.1f} %" if is_share(self.metric) else number_text(self.value)


@cache
def published() -> tuple[Published, ...]:
    """All of eval/references/."""
    found: list[Published] = []
    for path in sorted(shipped_folder("references").glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        source = {name: content["source"][name] for name in ("title", "url")}
        found += [Published(**record, **source) for record in content["records"]]
    return tuple(found)


def published_beside(records: Sequence[Record]) -> list[Published]:
    """What is published of the tasks and metrics that were measured."""
    measured = {(record.suite, record.task, record.metric) for record in records}
    return [one for one in published() if (one.suite, one.task, one.metric) in measured]
