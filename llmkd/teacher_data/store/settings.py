"""What a teacher store is made of: two stores with the same settings hold the same rows."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from llmkd.run_folder import fingerprint
from llmkd.teacher_data.store.errors import UnknownFormatError

FORMAT = 1
"""Raised when a store is written in another way than before."""


@dataclass(frozen=True)
class StoreSettings:
    """Teacher, data, and how the one was asked about the other. Values are as JSON has them."""

    kind: Literal["generated", "scored"]
    teacher: str
    """As the recipe calls it."""
    teacher_digest: str
    tokenizer_digest: str
    vocab_size: int
    engine: str
    """The kind of engine: each rounds in its own way."""
    seed: int
    data_digest: str
    num_rows: int
    """Of the data."""
    rows_per_shard: int
    """Rows of the data."""
    teacher_dtype: str = "float32"
    """Of the teacher's weights."""
    num_samples: int = 1
    """Rows of the store that one of the data makes, at most."""
    sampling: dict[str, Any] | None = None
    """The recipe's `generation`; None of scored rows."""
    capture: dict[str, Any] | None = None
    """The recipe's `capture`; None keeps text alone."""
    is_encoder_decoder: bool = False
    chat_template_digest: str | None = None
    """Of the chat template that the prompts are written in; None of plain text and scored rows."""
    system_prompt: str | None = None
    """The recipe's `data.system_prompt`."""

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all settings and the format."""
        return fingerprint(self.as_json())

    @property
    def num_shards(self) -> int:
        """Shards of the whole store."""
        return -(-self.num_rows // self.rows_per_shard)

    @property
    def precision(self) -> Literal["quantised", "float32"]:
        """How exactly log-probabilities are kept."""
        return (self.capture or {}).get("precision", "quantised")

    def rows_of(self, number: int) -> range:
        """The rows of the data that a shard is made of."""
        start = number * self.rows_per_shard
        return range(start, min(start + self.rows_per_shard, self.num_rows))

    def as_json(self) -> dict[str, Any]:
        """Plain data that `from_json` takes."""
        return {"format": FORMAT, "settings": asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any], place: object) -> "StoreSettings":
        """The settings in what `as_json` gave; `place` is where they stand.

        Raises:
            UnknownFormatError: Another version of llmkd wrote them.
        """
        if data.get("format") != FORMAT:
            raise UnknownFormatError(
                f"{place}: has format {data.get('format')}, and this version of llmkd reads format "
                f"{FORMAT}; use the version that wrote it, or generate the teacher data again"
            )
        return cls(**data["settings"])

    def differences(self, other: "StoreSettings") -> str:
        """What the two settings say differently, for people: `seed 0 and 1`; empty if nothing."""
        ours, theirs = (dict(_leaves(json.loads(json.dumps(asdict(s))))) for s in (self, other))
        names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
        return ", ".join(f"{name} {ours.get(name)!r} and {theirs.get(name)!r}" for name in names)


def _leaves(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
