"""What the commands share: options, how they fail, and how they print. Imports no torch."""

import json as json_format
import os
from contextlib import AbstractContextManager
from typing import Annotated, Any

import typer

from llmkd.failure import DEBUG, printing, reported
from llmkd.progress import QUIET

Json = Annotated[bool, typer.Option("--json", help="Print results as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


def command(quiet: bool, debug: bool) -> AbstractContextManager[None]:
    """The block of a command: what fails in it is told, and ends the process with its status."""
    # Through the environment, so that stages' processes inherit it.
    if quiet:
        os.environ[QUIET] = "1"
    if debug:
        os.environ[DEBUG] = "1"
    return reported()


def dumped(value: Any) -> str:
    """A result as JSON text; null in place of numbers that are not finite."""
    from llmkd.evaluation.results import without_nan

    return json_format.dumps(without_nan(value), indent=2)


def show(text: str) -> None:
    """Prints a result on stdout."""
    with printing():
        typer.echo(text)
