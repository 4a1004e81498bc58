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


def print_records(
    records: list[Any],
    as_json: bool,
    extra: dict[str, Any],
    differences: list[dict[str, Any]] | None = None,
) -> None:
    """Prints results: a table for people, or JSON.

    Args:
        records: What was measured.
        as_json: Whether to print JSON.
        extra: What else the JSON says.
        differences: Of models to the first one, as `details.json` has them.
    """
    if as_json:
        compared = {} if differences is None else {"differences": differences}
        show(dumped({**extra, "results": [vars(record) for record in records], **compared}))
    elif records:
        from rich.console import Console

        from llmkd.evaluation.references import published_beside
        from llmkd.evaluation.results import results_table

        with printing():
            console = Console()
            console.print(results_table(records, differences or ()))
            for one in published_beside(records):
                line = f"published of its own data, not measured here: {one.task} {one.metric} {one.model} {one.text}"
                console.print(f"{line} ({one.url})", style="dim", markup=False, highlight=False)


def show(text: str) -> None:
    """Prints a result on stdout."""
    with printing():
        typer.echo(text)
