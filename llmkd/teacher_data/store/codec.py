"""A stand-in."""

import io
from typing import Literal

import numpy as np

from llmkd.teacher_data.captured import Positions, SampledPositions, TopKPositions


def encode(positions: Positions, *, precision: Literal["quantised", "float32"]) -> bytes:
    """One row's positions as bytes."""
    file = io.BytesIO()
    np.savez(file, **vars(positions))
    return file.getvalue()


def decode(content: bytes | memoryview) -> Positions:
    """What `encode` was given."""
    arrays = dict(np.load(io.BytesIO(content)))
    return (SampledPositions if "counts" in arrays else TopKPositions)(**arrays)
