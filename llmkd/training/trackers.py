"""Trackers (TensorBoard, Weights & Biases, Trackio, ...): a run can lose any of them and goes on.

The integrations are transformers' own. What they do outside of this process can fail in any way (no
login, no network, a package of another version), and nothing of that is a reason to lose a training.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import integration_utils
from transformers.integrations.integration_utils import TensorBoardCallback

from llmkd.errors import InputError
from llmkd.progress import say
from llmkd.recipe.places import nearest

EVENTS = [name for name in dir(TrainerCallback) if name.startswith("on_")]


def tracker_names(report_to: str | list[str] | None) -> list[str]:
    """What `trainer.report_to` names, `all` and `none` resolved.

    Raises:
        InputError: A tracker that transformers does not know.
    """
    if report_to in (None, "none", ["none"]):
        return []
    if report_to in ("all", ["all"]):
        try:
            return integration_utils.get_available_reporting_integrations()
        except Exception as error:  # noqa: BLE001 - it imports some of them, which can fail anyhow.
            say(f"trackers: {_first_line(error)}; training goes on without them")
            return []
    names = [report_to] if isinstance(report_to, str) else list(report_to or [])
    known = list(integration_utils.INTEGRATION_TO_CALLBACK)
    for name in names:
        if name not in known:
            near = nearest(str(name), known)
            hint = f"did you mean `{near}`?" if near else f"write one of {', '.join(known)}"
            raise InputError(f"trainer.report_to: no such tracker {name}; {hint}")
    return list(dict.fromkeys(names))


def trackers(report_to: Any, arguments: TrainingArguments, folder: Path) -> list[TrainerCallback]:
    """The trackers of a training, none but on the main process.

    Args:
        report_to: As the recipe has it.
        arguments: Those that they add by themselves are taken over from here.
        folder: The stage's.
    """
    # TrainingArguments adds Kubeflow's by itself, and Trainer builds what is named there.
    added: Any = arguments.report_to
    arguments.report_to = []
    named: list[str] = [*tracker_names(report_to), *(added or [])]
    wanted = list[TrainerCallback]()
    if named and arguments.process_index == 0:
        wanted.append(Trackers(dict.fromkeys(named), folder))
    return wanted


class Trackers(TrainerCallback):
    """Passes every event on to trackers; one that fails is named once and left out from then on.

    Args:
        names: As `tracker_names` gives them.
        folder: The stage's, for trackers that write files.
    """

    def __init__(self, names: Iterable[str], folder: Path):
        self._running: dict[str, TrainerCallback] = {}
        for name in names:
            with self._survived(name):
                self._running[name] = _build(name, folder)

    def _pass_on(
        self,
        event: str,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        for name, callback in list(self._running.items()):
            with self._survived(name):
                # A copy: whether training stops or saves is not for a tracker to say.
                getattr(callback, event)(args, state, copy(control), **kwargs)

    @contextmanager
    def _survived(self, name: str) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            raise
        # Some call sys.exit where they have no login.
        except BaseException as error:  # noqa: BLE001
            self._running.pop(name, None)
            say(f"tracker {name}: {_reason(name, error)}; training goes on without it")


def _passing_on(event: str) -> Any:
    def pass_on(self: Trackers, *args: Any, **kwargs: Any) -> None:
        self._pass_on(event, *args, **kwargs)

    return pass_on


# All events that the installed transformers has, whichever they are.
for _event in EVENTS:
    setattr(Trackers, _event, _passing_on(_event))


class TensorBoardInFolder(TensorBoardCallback):
    """Writes into `tensorboard/` of the stage's folder, unless TENSORBOARD_LOGGING_DIR is set.

    A resumed run takes back what was logged after its checkpoint, and logs those steps again.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.logging_dir = self.logging_dir or str(folder / "tensorboard")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Opens the file."""
        if self.tb_writer is None:
            begin = state.global_step + 1
            self.tb_writer = self._SummaryWriter(log_dir=self.logging_dir, purge_step=begin)
        super().on_train_begin(args, state, control, **kwargs)


def _build(name: str, folder: Path) -> TrainerCallback:
    if name == "tensorboard":
        return TensorBoardInFolder(folder)
    if name == "wandb":
        # Its files are wherever the run was started, unless it is told otherwise.
        os.environ.setdefault("WANDB_DIR", str(folder.absolute()))
    kind = integration_utils.INTEGRATION_TO_CALLBACK[name]
    callback = kind.__new__(kind)
    try:
        kind.__init__(callback)
    except BaseException:
        # MLflow's has a __del__ that would print a traceback about what __init__ left undone.
        callback.__class__ = TrainerCallback
        raise
    return callback


def _reason(name: str, error: BaseException) -> str:
    # The integration mostly names the package itself, which can be called otherwise.
    named = re.search(r"`pip install ([^`]+)`", str(error))
    package = named[1] if named else name.replace("_", "-")
    if "to be installed" in str(error):
        return f"its package is not installed; pip install {package}"
    return _first_line(error) + (f"; pip install {package}" * isinstance(error, ImportError))


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".rstrip(": ").splitlines()[0]
