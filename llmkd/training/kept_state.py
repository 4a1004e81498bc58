"""Callbacks with something to remember: it travels with the checkpoint."""

from typing import Any

from transformers import TrainerCallback


class KeepsState(TrainerCallback):
    """A callback whose attributes a resumed training has to have again."""

    def state(self) -> dict[str, Any]:
        """Attributes by name, of plain data."""
        raise NotImplementedError

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave."""
        for name, value in state.items():
            setattr(self, name, value)
