"""The student as its teacher's draft: how often the teacher accepts, and what that saves."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.candidate_generator import AssistedCandidateGenerator

from llmkd.data.sources import Row, iter_rows
from llmkd.data.tokenize import encode_prompts
from llmkd.errors import InputError
from llmkd.evaluation.agreement import teacher_of
from llmkd.evaluation.kept import Answer
from llmkd.evaluation.measured import Estimate, Measured, Setting
from llmkd.evaluation.statistics import bootstrap_ratio
from llmkd.evaluation.subject import Subject
from llmkd.models.kinds import is_seq2seq
from llmkd.models.positions import room_after
from llmkd.models.vocabulary import shared_vocab_size
from llmkd.recipe.distillation_effects import DraftTask
from llmkd.teacher_data.transformers_engine import without_own_settings


def measure_draft(subject: Subject, task: DraftTask, setting: Setting) -> Measured:
    """Writes with the teacher, the student drafting, by transformers' assisted generation.

    Metrics: `measured_acceptance`, accepted over looked-at drafted tokens; `acceptance`, the mean of
    sum_v min(p_v, q_v) over the tokens written, which it should be near (temperature 0: whether both
    have one favourite); `tokens_per_round`, tokens written per pass of the teacher, 1 without a draft;
    `speedup`, seconds of the teacher alone over those with the draft, by the clock.

    References:
        Leviathan et al. 2023, https://arxiv.org/abs/2211.17192, definition 3.1 and theorem 3.5.

    Raises:
        InputError: No teacher, one with other tokens, no causal models, or no rows.
    """
    teacher = teacher_of(setting, subject, task.name)
    if is_seq2seq(subject.model.config):
        raise InputError(
            f"tasks.{task.name}: drafts are measured of causal models; leave the task out by --tasks"
        )
    rows = iter_rows(task.data, seed=setting.seed, need="scored")
    prompts = _prompts(rows, subject.tokenizer, task.prompt_length)
    kept = setting.kept(subject, task, teacher=teacher.content)
    if not kept.has_all(range(len(prompts))):
        # Uncounted, for the first time takes longer.
        _write(subject, teacher, prompts[0], task, 2, setting.seed)
    for number, prompt in enumerate(prompts):
        if not kept.has_all([number]):
            room = min(room_after(model, len(prompt)) for model in (subject.model, teacher.model))
            kept.add({number: _write(subject, teacher, prompt, task, room, setting.seed + number)})
        setting.progress(number + 1, len(prompts))
    return Measured(_estimates(kept.in_order(), setting.seed))


def _prompts(rows: Iterator[Row], tokenizer: PreTrainedTokenizerBase, most: int) -> list[list[int]]:
    texts = [row["prompt"] if "prompt" in row else row.get("text", "") for row in rows]
    ids = encode_prompts([text for text in texts if text], tokenizer)
    prompts = [prompt[:most] for prompt in ids if prompt]
    if not prompts:
        raise InputError("data: no row has a `prompt` or a `text`; name other rows")
    return prompts


def _write(
    subject: Subject, teacher: Subject, prompt: list[int], task: DraftTask, room: int, seed: int
) -> Answer:
    if room < 2:
        raise InputError(
            f"tasks.{task.name}.prompt_length: after {len(prompt)} tokens the models have no positions "
            "left; write fewer"
        )
    length = min(task.max_completion_length, room)
    settings = _settings(task, length, subject.tokenizer)
    with _counted(subject.model, task.num_draft_tokens) as (draft, rounds):
        ids, seconds = _generated(teacher.model, prompt, settings, seed, assistant_model=draft)
    _, alone = _generated(teacher.model, prompt, settings, seed)
    expected = _expected(subject, teacher.model, ids, len(prompt), task.temperature)
    return {
        "accepted": sum(num_matches for num_matches, _ in rounds),
        "looked_at": sum(matches + (matches < drafted) for matches, drafted in rounds),
        "expected": expected,
        "tokens": len(ids) - len(prompt),
        "rounds": len(rounds),
        "seconds": seconds,
        "seconds_alone": alone,
    }


def _settings(task: DraftTask, length: int, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    sampling: dict[str, Any] = {"do_sample": False}
    if task.temperature > 0:
        sampling = {"do_sample": True, "temperature": task.temperature, "top_k": 0, "top_p": 1.0}
    # Both write on to the same length, so that their seconds can be compared.
    return GenerationConfig(
        max_new_tokens=length, eos_token_id=None, pad_token_id=tokenizer.pad_token_id, **sampling
    )


@torch.inference_mode()
def _generated(
    model: PreTrainedModel, prompt: list[int], settings: GenerationConfig, seed: int, **more: Any
) -> tuple[list[int], float]:
    # With a mask of ones alone transformers 5.23 lets the draft read the prompt again on top of what it
    # has cached, from its second round on; one masked token before the prompt keeps the mask.
    input_ids = torch.tensor([[prompt[0], *prompt]], device=model.device)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[:, 0] = 0
    devices = [model.device] if model.device.type == "cuda" else []
    with without_own_settings(model), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        started = time.perf_counter()
        written: Any = model.generate(  # pyright: ignore[reportCallIssue]
            input_ids=input_ids,
            attention_mask=attention_mask,
            generation_config=settings,
            **more,
        )
        ids = written[0, 1:].tolist()
        return ids, time.perf_counter() - started


@contextmanager
def _counted(
    model: PreTrainedModel, num_tokens: int
) -> Iterator[tuple[PreTrainedModel, list[tuple[int, int]]]]:
    """Yields the model as a draft, and a list that gets (accepted, drafted) of each of its rounds.

    The draft writes `num_tokens` each time, whatever its own settings adapt to.
    """
    rounds: list[tuple[int, int]] = []
    update = AssistedCandidateGenerator.update_candidate_strategy

    def noted(self: Any, input_ids: Any, scores: Any, num_matches: Any) -> None:
        rounds.append((int(num_matches), scores.shape[1] - 1))
        update(self, input_ids, scores, num_matches)

    # The same weights with other settings: the model may be the teacher too.
    draft = copy(model)
    draft.generation_config = GenerationConfig(
        num_assistant_tokens=num_tokens,
        num_assistant_tokens_schedule="constant",
        assistant_confidence_threshold=0.0,
    )
    AssistedCandidateGenerator.update_candidate_strategy = noted
    try:
        yield draft, rounds
    finally:
        AssistedCandidateGenerator.update_candidate_strategy = update


@torch.inference_mode()
def _expected(
    subject: Subject, teacher: PreTrainedModel, ids: list[int], start: int, temperature: float
) -> float:
    """sum_v min(p_v, q_v), summed over the tokens from `start`."""
    probabilities = []
    for model in (subject.model, teacher):
        logits = model(torch.tensor([ids[:-1]], device=model.device), use_cache=False).logits[0]
        shared = logits[start - 1 :, : shared_vocab_size(subject.tokenizer)].float().cpu()
        if temperature > 0:
            probabilities.append((shared / temperature).softmax(1))
        else:
            favourites = shared.argmax(1)
            probabilities.append(torch.nn.functional.one_hot(favourites, shared.shape[1]).float())
    return float(torch.minimum(*probabilities).sum())


def _estimates(answers: list[Answer], seed: int) -> list[Estimate]:
    columns = {name: np.array([answer[name] for answer in answers], float) for name in answers[0]}
    ratios = {
        "measured_acceptance": ("accepted", "looked_at"),
        "acceptance": ("expected", "tokens"),
        "tokens_per_round": ("tokens", "rounds"),
        "speedup": ("seconds_alone", "seconds"),
    }
    return [
        Estimate(
            metric,
            bootstrap_ratio(columns[top], columns[bottom], seed=seed),
            len(answers),
            is_repeatable=metric != "speedup",
        )
        for metric, (top, bottom) in ratios.items()
    ]
