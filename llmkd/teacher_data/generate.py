"""A generate stage: a teacher answers prompts, and whatever kills it, nothing is done twice.

The stage's folder:

    data.jsonl         the product: one `{"prompt", "completion"}` per line
    progress.jsonl     one line per finished batch: what is done, and how long data.jsonl then was
    generation.json    the counts; its presence says that all is done

A batch is first written to data.jsonl and then noted in progress.jsonl, each flushed to the disk.
After a kill, data.jsonl is cut back to what the last whole note says and the next batch follows.
Every batch has its own seed, so the result is the one that an undisturbed run gives.
"""

import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from llmkd.data.sources import load_rows
from llmkd.errors import LlmkdError
from llmkd.progress import Progress
from llmkd.recipe.schema import GenerateStage
from llmkd.run_folder import write_atomically
from llmkd.teacher_data.transformers_engine import Completion, generate, load_for_inference

DATA = "data.jsonl"
PROGRESS = "progress.jsonl"
SUMMARY = "generation.json"


@dataclass(frozen=True)
class Note:
    """All that was done up to the end of a batch."""

    key: str
    """Hash of the stage, the seed and the prompts: notes of something else are not followed."""
    num_batches: int = 0
    num_bytes: int = 0
    """Length of data.jsonl."""
    num_prompts: int = 0
    num_kept: int = 0
    num_truncated: int = 0
    num_empty: int = 0
    num_tokens: int = 0
    seconds: float = 0.0


def run_generate(
    stage: GenerateStage, folder: Path, *, seed: int, progress: Progress
) -> dict[str, int | float]:
    """Writes what the teacher answers to the stage's prompts, going on where it was stopped.

    Completions that were cut by length teach no ending, and empty ones nothing: they are left out
    and counted.

    Args:
        stage: Its references to other stages are already paths.
        folder: The stage's folder; made where it is missing.
        seed: The run's.
        progress: Called with (done, total) prompts after every batch.

    Returns:
        What `generation.json` holds: num_prompts, num_kept, num_truncated, num_empty, num_tokens
        (generated ones) and seconds.

    Raises:
        LlmkdError: No completion is left.
    """
    prompts = load_rows(stage.data, seed=seed, need="prompt")["prompt"][:]
    folder.mkdir(parents=True, exist_ok=True)
    note = _last_note(folder, _key(stage, seed, prompts))
    if note.num_prompts < len(prompts):
        note = _go_on(stage, folder, note, prompts, seed, progress)
    if not note.num_kept:
        raise LlmkdError(_nothing_left(stage, note))
    summary = {key: value for key, value in asdict(note).items() if key in _SUMMARY_KEYS}
    write_atomically(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
    return summary


_SUMMARY_KEYS = ("num_prompts", "num_kept", "num_truncated", "num_empty", "num_tokens", "seconds")


def _go_on(
    stage: GenerateStage,
    folder: Path,
    note: Note,
    prompts: list[str],
    seed: int,
    progress: Progress,
) -> Note:
    model, tokenizer = load_for_inference(stage.teacher)
    progress(note.num_prompts, len(prompts))
    with (folder / DATA).open("ab") as data, (folder / PROGRESS).open("ab") as notes:
        while note.num_prompts < len(prompts):
            started = time.monotonic()
            batch = prompts[note.num_prompts : note.num_prompts + stage.engine.batch_size]
            completions = generate(
                model,
                tokenizer,
                batch,
                temperature=stage.generation.temperature,
                max_completion_length=stage.generation.max_completion_length,
                seed=_batch_seed(seed, note.num_batches),
            )
            _append(data, _lines(batch, completions))
            note = _noted(note, completions, data.tell(), time.monotonic() - started)
            _append(notes, json.dumps(asdict(note)).encode() + b"\n")
            progress(note.num_prompts, len(prompts))
    return note


def _lines(prompts: list[str], completions: list[Completion]) -> bytes:
    rows = [
        {"prompt": prompt, "completion": completion.text}
        for prompt, completion in zip(prompts, completions, strict=True)
        if _is_kept(completion)
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _is_kept(completion: Completion) -> bool:
    return completion.finish_reason == "stop" and completion.text != ""


def _noted(note: Note, completions: list[Completion], num_bytes: int, seconds: float) -> Note:
    num_truncated = sum(completion.finish_reason == "length" for completion in completions)
    num_kept = sum(map(_is_kept, completions))
    return Note(
        key=note.key,
        num_batches=note.num_batches + 1,
        num_bytes=num_bytes,
        num_prompts=note.num_prompts + len(completions),
        num_kept=note.num_kept + num_kept,
        num_truncated=note.num_truncated + num_truncated,
        num_empty=note.num_empty + len(completions) - num_kept - num_truncated,
        num_tokens=note.num_tokens + sum(completion.num_tokens for completion in completions),
        seconds=round(note.seconds + seconds, 3),
    )


def _append(file, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def _last_note(folder: Path, key: str) -> Note:
    """The last note that can be followed; both files are cut back to it."""
    data, notes = folder / DATA, folder / PROGRESS
    length = data.stat().st_size if data.exists() else 0
    found, kept = Note(key), b""
    for line in notes.read_bytes().splitlines(keepends=True) if notes.exists() else []:
        note = _read_note(line)
        if note is None or note.key != key or note.num_bytes > length:
            break
        found, kept = note, kept + line
    for path, num_bytes in ((data, found.num_bytes), (notes, len(kept))):
        with path.open("ab") as file:
            file.truncate(num_bytes)
    return found


def _read_note(line: bytes) -> Note | None:
    if not line.endswith(b"\n"):
        return None
    try:
        return Note(**json.loads(line))
    except (ValueError, TypeError):
        return None


def _key(stage: GenerateStage, seed: int, prompts: list[str]) -> str:
    content = json.dumps([stage.model_dump(mode="json"), seed, prompts])
    return hashlib.sha256(content.encode()).hexdigest()


def _batch_seed(seed: int, index: int) -> int:
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


def _nothing_left(stage: GenerateStage, note: Note) -> str:
    limit = stage.generation.max_completion_length
    if note.num_truncated:
        return (
            f"generation.max_completion_length: {note.num_truncated} of {note.num_prompts} "
            f"completions had no end within {limit} tokens, the others were empty, and none is "
            "left; write a larger max_completion_length, or a teacher that was trained to end its "
            "answers (data.append_eos: true)"
        )
    return (
        f"teacher: all {note.num_prompts} completions are empty; write a teacher that answers "
        "such prompts, or prompts in the form that the teacher was trained on"
    )
