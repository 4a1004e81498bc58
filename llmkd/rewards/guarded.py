"""Rewards that may fail: which completion it was, what is told of it, and what it earns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmkd.errors import InputError
from llmkd.progress import say
from llmkd.recipe.yaml_places import Key, dotted
from llmkd.rewards.worker import LATE, Answer, NoAnswerError, Worker

Rows = Mapping[str, list[Any]]
"""What there is of each completion, by name."""
Found = float | str | None
"""A reward, none, or how it failed."""
MOST_SHOWN = {"prompts": 1000, "completions": 1000}
"""Letters of an example that are shown; of other columns 200."""


class RewardError(InputError):
    """A reward that cannot be had.

    Args:
        key: Where it stands in its stage.
        message: What is wrong; what to write instead.
    """

    def __init__(self, key: Key, message: str):
        self.key, self.message = key, message
        super().__init__(f"{dotted(key)}: {message}")


@dataclass
class Guard:
    """Asks a worker for rewards, and knows what to do where it gives none.

    Args:
        worker: Computes them.
        key: Where the reward stands in its stage.
        name: What metrics call it.
        called: What messages call it.
        is_forgiven: Whether what fails earns 0 and is counted; else it ends the training.
    """

    worker: Worker
    key: Key
    name: str
    called: str
    is_forgiven: bool
    has_warned: bool = False

    def start(self) -> None:
        """Loads the function, so that what is wrong with it is told before anything else begins.

        Raises:
            RewardError: It cannot be loaded.
        """
        try:
            self.worker.start()
        except NoAnswerError as error:
            raise RewardError(self.key, f"{self.called} {error}; mend it") from error

    def alone(self, batch: Mapping[str, Any]) -> Found:
        """The reward of a batch of one."""
        try:
            return self._asked(batch, 1).values[0]
        except NoAnswerError as error:
            return str(error)

    def together(
        self, rows: Rows, log: Mapping[str, Callable[..., None]], **others: Any
    ) -> list[Found]:
        """Rewards of a batch in one call; where that fails, in one for each, to see which it is.

        Args:
            rows: The batch.
            log: What the function may log with, by the name that it knows it by.
            **others: What else it is called with.
        """
        count = len(rows["completions"])
        try:
            answer = self._asked({**rows, **others, **dict.fromkeys(log)}, count)
        except NoAnswerError as error:
            if count == 1:
                return [str(error)]
            found = list[Found]()
            for index in range(count):
                found.append(self.alone(_row(rows, index) | others | dict.fromkeys(log)))
                if isinstance(found[-1], str) and not self.is_forgiven:
                    return found
            if not any(isinstance(one, str) for one in found):
                return [f"{error} for {count} completions together, and for none alone"] * count
            return found
        for which, name, value in answer.logged:
            log[which](name, value)
        return answer.values

    def settled(
        self, found: list[Found], rows: Rows, log_metric: Callable[[str, float], None] | None
    ) -> list[float | None]:
        """The rewards, with 0 where one failed and that is forgiven.

        Args:
            found: What `alone` or `together` gave.
            rows: What an example is shown with.
            log_metric: TRL's; takes the share of failures as `rewards/NAME/errors`.

        Raises:
            RewardError: One failed, and that is not forgiven.
        """
        failures = {index: one for index, one in enumerate(found) if isinstance(one, str)}
        for index, reason in failures.items():
            told, example = f"{self.called} {reason}", _shown(_row(rows, index))
            if not self.is_forgiven:
                more = " write a larger timeout_s," if reason.startswith(LATE) else ""
                instead = f"mend it,{more} or write on_error: zero, with which this earns 0"
                raise RewardError(self.key, f"{told}; {instead}{example}")
            if not self.has_warned:
                say(
                    f"{dotted(self.key)}: {told}; this earns 0, as every one that fails will{example}"
                )
                self.has_warned = True
        if log_metric is not None:
            log_metric(f"rewards/{self.name}/errors", len(failures) / max(1, len(found)))
        return [0.0 if isinstance(one, str) else one for one in found]

    def _asked(self, batch: Mapping[str, Any], count: int) -> Answer:
        if not self.worker.is_running:
            self.start()
        return self.worker.ask({**batch, "num_completions": count})


def _row(rows: Rows, index: int) -> dict[str, list[Any]]:
    return {name: [column[index]] for name, column in rows.items()}


def _shown(row: Rows) -> str:
    """An example, a line for each of its columns."""
    lines = []
    for name, [value] in row.items():
        if name != "completion_ids":
            text, most = repr(value), MOST_SHOWN.get(name, 200)
            cut = f"... ({len(text)} letters)" if len(text) > most else ""
            lines.append(
                f"\n  {name.removesuffix('s') if name in MOST_SHOWN else name}: {text[:most]}{cut}"
            )
    return "".join(lines)
