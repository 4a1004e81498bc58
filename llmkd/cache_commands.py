"""`llmkd cache`: looking after teacher stores."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from llmkd.command import Debug, Json, Quiet, command, dumped, show
from llmkd.progress import progress

cache = typer.Typer(name="cache", help="Look after teacher stores.", no_args_is_help=True)

StoreArgument = Annotated[Path, typer.Argument(help="A teacher store, or its stage's folder.")]


@cache.command()
def inspect(
    store: StoreArgument, json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Print what a store was made of, how much is in it, and what a token of it takes."""
    with command(quiet, debug):
        from llmkd.teacher_data.places import store_folder
        from llmkd.teacher_data.store.overview import inspect as look_at

        overview = look_at(store_folder(store))
        show(dumped(overview) if json else _lines(overview))


@cache.command()
def verify(
    store: StoreArgument, json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Read every byte of a store and decode every row; name what is damaged, with exit status 1."""
    with command(quiet, debug):
        from llmkd.teacher_data.places import store_folder
        from llmkd.teacher_data.store.errors import DamagedStoreError
        from llmkd.teacher_data.store.folder import missing_shards, need_settings
        from llmkd.teacher_data.store.verify import verify as look_over

        store = store_folder(store)
        with progress(f"verify {store}") as moved:
            found = look_over(store, moved)
        missing = missing_shards(store, need_settings(store))
        result = {"damaged": [asdict(damage) for damage in found], "missing_shards": missing}
        unfinished = f"; {len(missing)} shards are still to be written" if missing else ""
        whole = f"{store}: every byte is as it was written{unfinished}"
        show(dumped(result) if json else "\n".join(map(str, found)) or whole)
        if found:
            raise DamagedStoreError(
                f"{store}: {len(found)} of its files are damaged or missing; `llmkd cache repair "
                f"{store}` makes them again"
            )


@cache.command()
def repair(
    store: StoreArgument, json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Capture again what is damaged in the store of a run, and make its index anew."""
    with command(quiet, debug):
        from llmkd.teacher_data.repair import repair as mend

        with progress(f"verify {store}") as moved:
            numbers = mend(store, moved)
        if json:
            show(dumped({"store": str(store), "captured_again": numbers}))
        else:
            shards = ", ".join(map(str, numbers)) or "none"
            show(f"{store}: whole; shards captured again: {shards}")


@cache.command()
def merge(
    parts: Annotated[list[Path], typer.Argument(help="Folders that shares were written into.")],
    output: Annotated[Path, typer.Option("--output", help="The folder of the whole store.")],
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make one store of the parts that several processes wrote; the parts stay."""
    with command(quiet, debug):
        from llmkd.teacher_data.places import copy_tokenizer, store_folder
        from llmkd.teacher_data.store.merge import merge as join

        folders = [store_folder(part) for part in parts]
        counts = asdict(join(folders, output))
        copy_tokenizer(folders[0], output)
        result = {"store": str(output), "counts": counts}
        show(dumped(result) if json else _lines(result))


@cache.command()
def export(
    store: StoreArgument,
    output: Annotated[Path, typer.Option("--output", help="FILE.jsonl or FILE.parquet.")],
    positions: Annotated[
        bool, typer.Option("--positions", help="Write what the teacher says at each position too.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a store's rows, texts and tokens, as JSON lines or Parquet."""
    with command(quiet, debug):
        from llmkd.teacher_data.places import open_store
        from llmkd.teacher_data.store.export import export as write

        opened = open_store(store)
        with progress(f"export {store}") as moved:
            write(opened, output, with_positions=positions, progress=moved)
        result = {"output": str(output), "num_rows": len(opened)}
        show(dumped(result) if json else _lines(result))


def _lines(data: dict[str, Any], indent: str = "") -> str:
    """Plain data as lines for people."""
    lines = []
    for key, value in data.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", _lines(value, f"{indent}  ")]
        else:
            lines.append(f"{indent}{key}: {_shown(value)}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, bool | None):
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return f"{value:,}" if isinstance(value, int) else str(value)
