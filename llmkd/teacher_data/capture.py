"""Generate and score stages: a teacher goes over data, shard by shard, into a store.

A shard is one call of the engine and is written whole or not at all, so after a kill the next one
follows. Seeds follow from the rows' numbers, so the result is that of an undisturbed run.
"""

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from llmkd.build_engine import build_engine, engine_of
from llmkd.data.cache import tokenized
from llmkd.data.chat import read_chat_template
from llmkd.data.folders import local_files
from llmkd.data.kinds import tokenizing_for
from llmkd.data.prepare import UNCUT
from llmkd.data.prompts import READ_BACK, PromptTokenize, answered
from llmkd.data.tokenize import Tokenize
from llmkd.errors import LlmkdError
from llmkd.models.kinds import is_seq2seq
from llmkd.models.load import config_of, tokenizer_of
from llmkd.models.vocabulary import shared_vocab_size
from llmkd.progress import Progress
from llmkd.progress import progress as data_progress
from llmkd.recipe.data import AdditionTask, CompletionTask, PromptRows
from llmkd.recipe.schema import GenerateStage, ScoreStage
from llmkd.recipe.teacher_data import ServerEngine, TransformersEngine
from llmkd.run_folder import fingerprint, replacing, write_atomically
from llmkd.run_stage import ALONE, Share
from llmkd.teacher_data.captured import Positions
from llmkd.teacher_data.engine import Engine, Written, sample_seed
from llmkd.teacher_data.places import DATA, STORE, SUMMARY, TOKENIZER, content_of_teacher
from llmkd.teacher_data.store import (
    Store,
    StoreRow,
    StoreSettings,
    StoreWriter,
    is_whole,
    tokens_key,
)

CaptureStage = GenerateStage | ScoreStage
NO_EXAMPLES = datasets.Dataset.from_dict({name: [] for name in (*READ_BACK, "tokens_key")})


def run_capture(
    stage: CaptureStage,
    folder: Path,
    *,
    seed: int,
    progress: Progress,
    teacher: str | None = None,
    share: Share = ALONE,
) -> dict[str, int]:
    """Writes what the teacher answers to the stage's prompts, or predicts for its texts.

    It goes on where it was stopped. Prompts and texts are read from their file as they are needed.
    Completions that were cut by length teach no ending, and empty ones nothing: they are in the
    store, but not in `data.jsonl`, and counted.

    Args:
        stage: Its references to other stages are already paths.
        folder: The stage's folder; made where it is missing.
        seed: The run's.
        progress: Called with (done, total) rows after every shard.
        teacher: What the store calls the teacher; None takes its path.
        share: Which of how many processes this is: each does its own shards.

    Returns:
        What `generation.json` holds.

    Raises:
        LlmkdError: No completion is left.
    """
    tokenizer, config = tokenizer_and_config(stage)
    with data_progress("data") as moved:
        tokenizing = _tokenizing(stage, tokenizer, config)
        if _asks_nothing(stage):
            examples, num_dropped = NO_EXAMPLES, 0
        else:
            examples, num_dropped = tokenized(stage.data, tokenizing, seed=seed, progress=moved)
    settings = _settings(
        stage, examples, tokenizer, seed=seed, name=teacher, is_seq2seq=is_seq2seq(config)
    )
    with StoreWriter(folder / STORE, settings, share=share) as writer:
        tokenizer.save_pretrained(writer.folder / TOKENIZER)
        if writer.missing:
            with closing(build_engine(stage)) as engine:
                _write(writer, partial(_rows, stage, engine, examples, seed), progress)
        writer.finish()
    if share != ALONE:
        return {}
    if isinstance(stage, GenerateStage):
        summary = _write_text(stage, folder, examples)
    else:
        summary = {**vars(Store.open(folder / STORE).counts), "num_dropped": num_dropped}
    write_atomically(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
    return summary


def _asks_nothing(stage: CaptureStage) -> bool:
    """Whether an earlier stage left no prompt undecided, so that there is nothing to ask."""
    if not isinstance(stage.data, PromptRows) or stage.data.dataset_split == "train":
        return False
    files = local_files(stage.data)
    return bool(files) and not any(file.stat().st_size for file in files)


def _tokenizing(
    stage: CaptureStage, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig
) -> Tokenize:
    if isinstance(stage, GenerateStage):
        return PromptTokenize(tokenizer, config, stage.data)
    sequences = UNCUT if isinstance(stage.data, AdditionTask) else stage.data
    return tokenizing_for(config, "teacher")(tokenizer, sequences)


def _rows(
    stage: CaptureStage, engine: Engine, examples: datasets.Dataset, seed: int, numbers: range
) -> list[StoreRow]:
    """What the engine makes of some of the data's rows."""
    rows: dict[int, dict[str, Any]] = {number: examples[number] for number in numbers}
    if isinstance(stage, GenerateStage):
        asked = [(n, sample) for n in numbers for sample in range(stage.generation.num_samples)]
        seeds = [sample_seed(seed, number, sample) for number, sample in asked]
        written = engine.generate([rows[number]["input_ids"] for number, _ in asked], seeds)
        return [
            _generated(number, sample, rows[number], done)
            for (number, sample), done in zip(asked, written, strict=True)
        ]
    sequences = [row["input_ids"] for row in rows.values()]
    positions = engine.score(sequences, [row["trained_spans"] for row in rows.values()])
    return [_scored(*item, found) for item, found in zip(rows.items(), positions, strict=True)]


def tokenizer_and_config(
    stage: CaptureStage,
) -> tuple[PreTrainedTokenizerBase, PreTrainedConfig]:
    """Of the stage's teacher; the tokenizer has the chat template that the stage's data names."""
    teacher = stage.teacher
    config: PreTrainedConfig = config_of(teacher)
    tokenizer = tokenizer_of(teacher)
    template = None if isinstance(stage.data, CompletionTask) else stage.data.chat_template
    if template is not None:
        tokenizer.chat_template = read_chat_template(template)
    return tokenizer, config


def _write(
    writer: StoreWriter, rows_of: Callable[[range], list[StoreRow]], progress: Progress
) -> None:
    missing = list(writer.missing)
    num_rows = writer.settings.num_rows
    num_done = num_rows - sum(len(writer.rows_of(number)) for number in missing)
    progress(num_done, num_rows)
    started, num_tokens = time.monotonic(), 0
    for number in missing:
        rows = rows_of(writer.rows_of(number))
        writer.write(number, rows)
        num_done += len(writer.rows_of(number))
        num_tokens += sum(sum(row.spans[1::2]) - sum(row.spans[::2]) for row in rows)
        seconds = max(time.monotonic() - started, 1e-9)
        progress(num_done, num_rows, tokens_per_s=num_tokens / seconds)


def _settings(
    stage: CaptureStage,
    examples: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    name: str | None,
    is_seq2seq: bool,
) -> StoreSettings:
    is_generated = isinstance(stage, GenerateStage)
    settings = StoreSettings(
        kind="generated" if is_generated else "scored",
        teacher=name or stage.teacher.name,
        teacher_digest=content_of_teacher(stage.teacher),
        tokenizer_digest=fingerprint(tokenizer.get_vocab()),
        vocab_size=shared_vocab_size(tokenizer),
        capture=None if stage.capture is None else stage.capture.model_dump(mode="json"),
        sampling=stage.generation.model_dump(mode="json") if is_generated else None,
        teacher_dtype=stage.teacher.dtype,
        engine=_engine(stage),
        seed=seed,
        data_digest=_digest_of(examples),
        num_rows=len(examples),
        num_samples=stage.generation.num_samples if is_generated else 1,
        rows_per_shard=stage.shard_size,
        is_encoder_decoder=is_seq2seq,
    )
    first = examples[0] if len(examples) else {}
    if isinstance(stage.data, PromptRows) and first.get("messages") is not None:
        return _with_chat(settings, stage.data, tokenizer)
    return settings


def _with_chat(
    settings: StoreSettings, source: PromptRows, tokenizer: PreTrainedTokenizerBase
) -> StoreSettings:
    template = fingerprint({"chat_template": tokenizer.get_chat_template()})
    return replace(settings, chat_template_digest=template, system_prompt=source.system_prompt)


def _digest_of(examples: datasets.Dataset) -> str:
    """`fingerprint` of {"rows": the keys of all examples}, of which few are in memory at a time."""
    digest, separator = hashlib.sha256(b'{"rows": ['), ""
    for keys in examples.data.column("tokens_key").chunks:
        for key in keys.to_pylist():
            digest.update(f'{separator}"{key.hex()}"'.encode())
            separator = ", "
    digest.update(b"]}")
    return digest.hexdigest()


def _engine(stage: CaptureStage) -> str:
    engine = engine_of(stage)
    if isinstance(engine, ServerEngine) and engine.model is not None:
        # One server may have the teacher with and without an adapter.
        return f"{engine.kind}, model {engine.model}"
    if isinstance(engine, TransformersEngine) and isinstance(stage, GenerateStage):
        # The samples of a batch are drawn together.
        return f"{engine.kind}, {engine.batch_size} at once"
    return engine.kind


def _generated(number: int, sample: int, prompt: dict[str, Any], written: Written) -> StoreRow:
    ids = [*prompt["input_ids"], *written.token_ids]
    return StoreRow(
        number=number,
        sample=sample,
        tokens_key=tokens_key(ids),
        token_ids=np.asarray(ids, np.int32),
        spans=[prompt["length"], len(ids)],
        prompt=prompt["text"],
        completion=written.text,
        finish_reason=written.finish_reason,
        positions=written.positions,
    )


def _scored(number: int, row: dict[str, Any], positions: Positions) -> StoreRow:
    return StoreRow(
        number=number,
        sample=0,
        tokens_key=row["tokens_key"],
        token_ids=np.asarray(row["input_ids"], np.int32),
        spans=row["trained_spans"],
        num_cut=row["num_cut"],
        positions=positions,
    )


def _write_text(stage: GenerateStage, folder: Path, examples: datasets.Dataset) -> dict[str, int]:
    prompts = examples.select_columns([*READ_BACK])
    summary: dict[str, int] = dict.fromkeys(
        ("num_prompts", "num_completions", "num_kept", "num_truncated", "num_empty", "num_tokens"),
        0,
    )
    with replacing(folder / DATA) as staged, staged.open("w", encoding="utf-8") as file:
        for row in Store.open(folder / STORE).texts():
            is_cut, is_kept = row.finish_reason == "length", is_whole(row)
            summary["num_prompts"] += row.sample == 0
            summary["num_completions"] += 1
            summary["num_kept"] += is_kept
            summary["num_truncated"] += is_cut
            summary["num_empty"] += not is_cut and not is_kept
            summary["num_tokens"] += row.spans[1] - row.spans[0]
            if is_kept:
                content = answered(prompts[row.number], str(row.completion), row.number)
                file.write(json.dumps(content, ensure_ascii=False) + "\n")
        if summary["num_prompts"] and not summary["num_kept"]:
            raise LlmkdError(_nothing_left(stage, summary))
    return summary


def _nothing_left(stage: GenerateStage, summary: dict[str, int]) -> str:
    limit, num_truncated = stage.generation.max_completion_length, summary["num_truncated"]
    if num_truncated:
        return (
            f"generation.max_completion_length: {num_truncated} of {summary['num_completions']} "
            f"completions had no end within {limit} tokens, the others were empty, and none is "
            "left; write a larger max_completion_length, or a teacher that was trained to end its "
            "answers (data.append_eos: true)"
        )
    return (
        f"teacher: all {summary['num_completions']} completions are empty; write a teacher that "
        "answers such prompts, or prompts in the form that the teacher was trained on"
    )
