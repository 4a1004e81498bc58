"""Which checkpoint an interrupted training goes on from."""

import shutil
from collections.abc import Callable
from pathlib import Path

from llmkd.errors import InputError
from llmkd.progress import say
from llmkd.training.checkpoints import checkpoint_steps, set_aside, set_aside_after
from llmkd.training.checksums import damage


def checkpoint_to_resume(
    resume: str, folder: Path, name: str, check: Callable[[Path], None]
) -> Path | None:
    """What a training goes on from, or None to begin anew; other checkpoints are set aside.

    For the main process alone, since it renames and deletes.

    Args:
        resume: As the recipe has it.
        folder: Of the stage's checkpoints.
        name: The stage's, for messages.
        check: Raises where the training cannot go on from a whole checkpoint.

    Raises:
        InputError: `resume` names no whole checkpoint.
    """
    match resume:
        case "auto":
            newest = _newest_whole(folder, name)
            if newest is not None:
                check(newest)
            return newest
        case "never":
            shutil.rmtree(folder, ignore_errors=True)
            return None
        case path:
            if problem := damage(Path(path)):
                raise InputError(
                    f"resume: {path} is no whole checkpoint of llmkd ({problem}); write auto, never, "
                    "or the path of a whole checkpoint-N folder"
                )
            check(Path(path))
            set_aside_after(Path(path), folder)
            return Path(path)


def _newest_whole(folder: Path, name: str) -> Path | None:
    """The newest checkpoint that is as it was written; later ones are set aside."""
    found = list(checkpoint_steps(folder).values())
    for checkpoint in reversed(found):
        if not (problem := damage(checkpoint)):
            return checkpoint
        aside = set_aside(checkpoint)
        say(f"warning: {name}: {checkpoint} is damaged ({problem}); it is {aside.name} now")
    if found:
        say(f"warning: {name}: no whole checkpoint is left, so the training begins anew")
    return None
