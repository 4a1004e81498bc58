"""What makes a teacher write, or score what is written: the one interface of all engines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from llmkd.teacher_data.captured import Positions

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Written:
    """What a teacher wrote after a prompt."""

    token_ids: list[int]
    """As generated, the end-of-text token included."""
    text: str
    """Without special tokens and without the stop string that ended it."""
    finish_reason: FinishReason
    """`stop`: the teacher ended it, or a stop string did. `length`: it was cut."""
    positions: Positions | None = None
    """One for each of `token_ids`; None where nothing is captured."""

    @property
    def num_tokens(self) -> int:
        """Tokens generated, the end-of-text token included."""
        return len(self.token_ids)


def sample_seed(seed: int, number: int, sample: int) -> int:
    """The seed of one completion, in 0..2**31-1.

    Args:
        seed: The run's.
        number: The prompt's row.
        sample: Which completion of the prompt.
    """
    state = np.random.SeedSequence([seed, number, sample]).generate_state(1)[0]
    return int(state) & 0x7FFF_FFFF


@runtime_checkable
class Engine(Protocol):
    """A teacher, loaded, with what the recipe says of sampling and capturing."""

    def generate(self, prompts: Sequence[list[int]], seeds: Sequence[int]) -> list[Written]:
        """One completion of each prompt, in their order.

        The same call gives the same completions; with engines that seed each sequence by itself,
        whatever it is called together with.

        Args:
            prompts: Token ids, none empty.
            seeds: Of each completion, in 0..2**31-1.
        """
        ...

    def score(self, sequences: Sequence[list[int]], spans: Sequence[list[int]]) -> list[Positions]:
        """What the teacher predicts for tokens that are there already.

        Args:
            sequences: Token ids of each.
            spans: Of each, which tokens: `[start, end, start, end, ...]`, in ascending order, never
                the first token.

        Returns:
            Of each sequence, one position per token of its spans.
        """
        ...

    def close(self) -> None:
        """Lets go of processes, connections and memory; it is not asked again."""
        ...
