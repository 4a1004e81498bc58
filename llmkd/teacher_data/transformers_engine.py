"""Answers from a model, a batch of prompts at a time, by `transformers.generate`.

Sampling is plain: from softmax(logits / temperature) over all tokens of the tokenizer, whatever cut-offs
and penalties the checkpoint's generation config has, so that samples follow the distribution that
the student is to learn. From that config only the end-of-text tokens are taken.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import (
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from llmkd.data.prompts import encoded_prompts
from llmkd.errors import InputError
from llmkd.models.finite import OVERFLOW
from llmkd.models.head import output_head
from llmkd.models.kinds import decoder_start_token_id, is_seq2seq
from llmkd.models.load import load_model, tokenizer_of
from llmkd.models.positions import hard_limit, room_after
from llmkd.models.vocabulary import shared_vocab_size
from llmkd.recipe.models import PretrainedModel
from llmkd.recipe.teacher_data import Generation
from llmkd.teacher_data.engine import Written

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def load_for_inference(
    source: PretrainedModel, load: Callable[[PretrainedModel], PreTrainedModel] = load_model
) -> Loaded:
    """The model, on the accelerator where there is one, and its tokenizer.

    Args:
        source: Where it is.
        load: What loads this kind of model.

    Raises:
        InputError: Nothing loadable is there.
    """
    tokenizer = tokenizer_of(source)
    model = load(source).eval().requires_grad_(False)
    device: Any = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device), tokenizer


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    *,
    temperature: float,
    max_completion_length: int,
    seed: int,
) -> list[Written]:
    """Completes the prompts, given as text; see `generate_from_ids`."""
    generation = Generation(temperature=temperature, max_completion_length=max_completion_length)
    ids = encoded_prompts(model.config, prompts, tokenizer)
    return generate_from_ids(model, tokenizer, ids, generation, seed=seed)


@torch.inference_mode()
def generate_from_ids(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    generation: Generation,
    *,
    seed: int,
) -> list[Written]:
    """Completes the prompts together, as one batch, once each.

    Args:
        model: In evaluation mode; its device is used.
        tokenizer: The model's.
        prompts: Padded to the longest: on the left, or on the right for an encoder.
        generation: How. Completions are cut sooner where a model with learned positions has no more
            of them.
        seed: Decides the samples, given the whole batch; torch's own random state stays as it was.

    Raises:
        InputError: A prompt has no tokens, or more than the model has positions for, or the model
            gives NaN.
    """
    assert not model.training, "dropout would change what the model writes"
    input_ids, attention_mask = _padded(prompts, model, tokenizer)
    stops = _stop_token_ids(model, tokenizer)
    sampling: dict[str, Any] = {"do_sample": False}
    if generation.temperature > 0:
        sampling = {
            "do_sample": True,
            "temperature": generation.temperature,
            "top_k": 0,
            "top_p": generation.top_p,
        }
    room = _room(model, input_ids.shape[1])
    settings = GenerationConfig(
        max_new_tokens=min(generation.max_completion_length, room),
        **_decoder_settings(model),
        eos_token_id=stops or None,
        pad_token_id=_pad_token_id(tokenizer),
        suppress_tokens=_padded_token_ids(model, tokenizer) or None,
        **sampling,
    )
    # A decoder of its own does not repeat the prompt, only what it begins with.
    start = 1 if is_seq2seq(model.config) else input_ids.shape[1]
    devices = [model.device] if model.device.type == "cuda" else []
    with without_own_settings(model), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        generated: Any = model.generate(  # pyright: ignore[reportCallIssue]
            input_ids=input_ids.to(model.device),
            attention_mask=attention_mask.to(model.device),
            generation_config=settings,
            logits_processor=LogitsProcessorList([_RefuseNaN()]),
            stopping_criteria=StoppingCriteriaList(
                [_StopStrings(generation.stop, start, tokenizer)]
            ),
            **_cache(model),
        )
    written = generated[:, start:].tolist()
    return [_written(ids, set(stops), generation.stop, tokenizer) for ids in written]


class _RefuseNaN(LogitsProcessor):
    """Ends what would go on with any token: greedy search takes NaN for the largest number."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """The logits as they are, [B, V]."""
        if scores.isnan().any():
            raise InputError(OVERFLOW)
        return scores


class _StopStrings(StoppingCriteria):
    """Ends a sequence that has written a stop string; transformers' own needs certain vocabularies."""

    def __init__(self, stops: list[str], start: int, tokenizer: PreTrainedTokenizerBase):
        self.stops, self.start, self.tokenizer = stops, start, tokenizer
        # A character may take four tokens, a byte each.
        self.most_tokens = 4 * max(map(len, stops), default=0) + 8

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Which of the sequences are ended, [B]."""
        if not self.stops:
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        tails = input_ids[:, self.start :][:, -self.most_tokens :].tolist()
        found = [
            any(stop in _text_of(tail, self.tokenizer) for stop in self.stops) for tail in tails
        ]
        return torch.tensor(found, device=input_ids.device)


def _decoder_settings(model: PreTrainedModel) -> dict[str, Any]:
    start = decoder_start_token_id(model.config, model.name_or_path or "model")
    first = getattr(model.generation_config, "forced_bos_token_id", None)
    return {} if start is None else {"decoder_start_token_id": start, "forced_bos_token_id": first}


def _cache(model: PreTrainedModel) -> dict[str, Any]:
    # transformers 5.23 makes room for as many layers as the encoder has, of which a T5's decoder may
    # have more; these grow by themselves.
    if not is_seq2seq(model.config):
        return {}
    return {"past_key_values": EncoderDecoderCache(DynamicCache(), DynamicCache())}


def _room(model: PreTrainedModel, longest_prompt: int) -> int:
    room = room_after(model, longest_prompt)
    if room < 1:
        raise InputError(
            f"a prompt has {longest_prompt} tokens, and the model has {hard_limit(model)} positions; "
            "leave it out of the data set, or take a model that reads more"
        )
    return room


def _written(
    ids: list[int], stops: set[int], stop_strings: list[str], tokenizer: PreTrainedTokenizerBase
) -> Written:
    end = next((i for i, token in enumerate(ids) if token in stops), None)
    text = _text_of(ids[:end], tokenizer)
    found = [text.find(stop) for stop in stop_strings if stop in text]
    if found:
        # What a stop string ended is followed by padding, while the others of the batch go on.
        num_tokens = next(
            n
            for n in range(1, len(ids) + 1)
            if any(s in _text_of(ids[:n], tokenizer) for s in stop_strings)
        )
        return Written(ids[:num_tokens], text[: min(found)], "stop")
    if end is None:
        return Written(ids, text, "length")
    return Written(ids[: end + 1], text, "stop")


def _text_of(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def _padded(
    prompts: Sequence[list[int]], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, prompts))
    input_ids = torch.full((len(prompts), longest), _pad_token_id(tokenizer))
    attention_mask = torch.zeros_like(input_ids)
    for i, ids in enumerate(prompts):
        if not ids:
            raise InputError(f"prompt {i + 1} has no tokens; leave it out of the data set")
        # What goes on after a prompt stands right behind it; an encoder reads from the first on.
        place = slice(len(ids)) if is_seq2seq(model.config) else slice(longest - len(ids), None)
        input_ids[i, place] = torch.tensor(ids)
        attention_mask[i, place] = 1
    return input_ids, attention_mask


def _pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    # Masked wherever it stands, so any token will do.
    token: Any = tokenizer.pad_token_id
    return 0 if token is None else token


def _padded_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Rows of the head that stand for no token: they only make its size a round number."""
    return list(range(shared_vocab_size(tokenizer), len(output_head(model).weight)))


def _stop_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokenizer's end-of-text token and the checkpoint's: chat models have several."""
    settings: Any = model.generation_config
    of_model = settings.eos_token_id if settings is not None else None
    of_model = of_model if isinstance(of_model, list) else [of_model]
    return sorted({token for token in [*of_model, tokenizer.eos_token_id] if token is not None})


@contextmanager
def without_own_settings(model: PreTrainedModel) -> Iterator[None]:
    """Hides the checkpoint's generation config, which fills in whatever a call leaves open."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
