"""Where the time of an optimizer step goes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback

PARTS: tuple[str, ...] = ("rollout", "teacher", "rewards", "update")


class StepClock:
    """Seconds of each part of a step; they add up to the step's.

    What runs inside a part counts for the inner one alone, and what runs in none for `update`: the
    loss, its gradient, and the optimizer. An accelerator is waited for wherever a part begins or ends.

    Args:
        device: That the parts compute on.
        now: The time in seconds.
    """

    def __init__(self, device: torch.device, now: Callable[[], float] = time.perf_counter):
        self._device, self._now = device, now
        self.begin()

    def begin(self) -> None:
        """A step begins."""
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._part, self._since = "update", self._now_done()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs in the block counts for a part."""
        outer = self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def seconds(self) -> dict[str, float]:
        """Of each of `PARTS`, since the step began."""
        self._switch(self._part)
        return dict(self._seconds)

    def _switch(self, name: str) -> str:
        """From here on time counts for that part; gives the one that it counted for."""
        now, left = self._now_done(), self._part
        self._seconds[left] += now - self._since
        self._part, self._since = name, now
        return left

    def _now_done(self) -> float:
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        return self._now()


class NotedTimes(TrainerCallback):
    """Notes `time/rollout`, `time/teacher`, `time/rewards` and `time/update` of every step, in seconds.

    Args:
        clock: Whose parts they are.
        note: Takes a name and a value.
    """

    def __init__(self, clock: StepClock, note: Callable[[str, float], None]):
        self.clock, self.note = clock, note

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """A step begins, its batch at hand."""
        self.clock.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """The optimizer is done."""
        for part, seconds in self.clock.seconds().items():
            self.note(f"time/{part}", seconds)
