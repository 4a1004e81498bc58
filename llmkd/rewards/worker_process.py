"""What `llmkd.rewards.worker` starts: `python -m llmkd.rewards.worker_process PARENT DESCRIPTOR`."""

import asyncio
import importlib
import importlib.util
import inspect
import json
import math
import os
import pickle
import sys
import traceback
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from llmkd.processes import die_with


def main() -> None:
    """Loads the function of the first request, and calls it for each one after."""
    die_with(int(sys.argv[1]))
    connection = Connection(int(sys.argv[2]))
    function: partial[Any] | None = None
    with suppress(EOFError):
        while True:
            request = connection.recv_bytes()
            reply: dict[str, Any] = {"values": [], "logged": []}
            try:
                if function is None:
                    function = _loaded(**pickle.loads(request))
                else:
                    reply = _answered(function, pickle.loads(request))
                text = json.dumps(reply, default=str)
            except BaseException as error:  # noqa: BLE001 - sys.exit too is to be told of.
                text = json.dumps({"failed": _told(error, function)})
            sys.stdout.flush()
            connection.send_bytes(text.encode())
    os._exit(0)  # Threads of the function's do not keep it.


def _loaded(function: str, arguments: dict[str, Any]) -> "partial[Any]":
    source, _, name = function.rpartition(":")
    if not source.endswith(".py"):
        return partial(getattr(importlib.import_module(source), name), **arguments)
    path = Path(source).expanduser().resolve()
    sys.path.insert(0, str(path.parent))  # As of a script: what lies beside it can be imported.
    called = f"llmkd_{path.stem}"  # For no module of that name is to be replaced.
    spec = importlib.util.spec_from_file_location(called, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{source} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[called] = module
    spec.loader.exec_module(module)
    return partial(getattr(module, name), **arguments)


def _answered(function: "partial[Any]", batch: dict[str, Any]) -> dict[str, Any]:
    num_completions = batch.pop("num_completions")
    logged = list[tuple[str, str, Any]]()
    if "log_metric" in batch:
        batch["log_metric"] = lambda name, value: logged.append(
            ("log_metric", str(name), float(value))
        )
        batch["log_extra"] = lambda column, values: logged.append(
            ("log_extra", str(column), [*values])
        )
    given = function(**batch)
    if inspect.isawaitable(given):
        given = asyncio.run(_awaited(given))
    values = [*given]
    if len(values) != num_completions:
        raise _MiscountError(f"gave {len(values)} rewards for {num_completions} completions")
    return {"values": [_number(value) for value in values], "logged": logged}


class _MiscountError(Exception):
    """Not as many rewards as completions."""


async def _awaited(given: Any) -> Any:
    return await given


def _number(value: Any) -> float | str | None:
    """A reward as a number; as a text, what is wrong with it."""
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = math.nan
    return number if math.isfinite(number) else f"gave {repr(value)[:80]}, which is no number"


def _told(error: BaseException, function: "partial[Any] | None") -> str:
    """What went wrong, and on which line of the function's file."""
    if isinstance(error, _MiscountError):
        return str(error)
    text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    if function is None:
        return f"cannot be loaded ({text})"
    file = getattr(getattr(function.func, "__code__", None), "co_filename", None)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == file]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"raised {text}{where}"


if __name__ == "__main__":
    main()
