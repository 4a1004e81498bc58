"""Answers from a model, a batch of prompts at a time, by `transformers.generate`.

Sampling is plain: from softmax(logits / temperature) over the whole vocabulary, whatever cut-offs
and penalties the checkpoint's generation config has, so that samples follow the distribution that
the student is to learn. From that config only the end-of-text tokens are taken.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import (
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from llmkd.data.seq2seq import encode_sources
from llmkd.data.tokenize import encode_prompts
from llmkd.errors import InputError
from llmkd.models.kinds import decoder_start_token_id, is_seq2seq
from llmkd.models.load import load_model, load_tokenizer
from llmkd.models.positions import hard_limit, room_after
from llmkd.recipe.models import PretrainedModel


@dataclass(frozen=True)
class Completion:
    """What the model wrote after a prompt."""

    text: str
    """Without special tokens."""
    finish_reason: Literal["stop", "length"]
    """`stop`: the model ended it. `length`: it was cut."""
    num_tokens: int
    """Tokens generated, the end-of-text token included."""


def load_for_inference(
    source: PretrainedModel, load: Callable[[PretrainedModel], PreTrainedModel] = load_model
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, on the accelerator where there is one, and its tokenizer.

    Args:
        source: Where it is.
        load: What loads this kind of model.

    Raises:
        InputError: Nothing loadable is there.
    """
    tokenizer = load_tokenizer(source.model_name_or_path, source.revision)
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
) -> list[Completion]:
    """Completes the prompts together, as one batch.

    Args:
        model: In evaluation mode; its device is used.
        tokenizer: The model's.
        prompts: Padded to the longest: on the left, or on the right for an encoder.
        temperature: 0 is greedy.
        max_completion_length: Tokens after which a completion is cut; sooner where a model with
            learned positions has no more of them.
        seed: Decides the samples, given the whole batch; torch's own random state stays as it was.

    Raises:
        InputError: A prompt has no tokens, or more than the model has positions for.
    """
    assert not model.training, "dropout would change what the model writes"
    input_ids, attention_mask = _padded(
        encoded_prompts(model, prompts, tokenizer), model, tokenizer
    )
    stops = _stop_token_ids(model, tokenizer)
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    settings = GenerationConfig(
        max_new_tokens=min(max_completion_length, _room(model, input_ids.shape[1])),
        **_decoder_settings(model),
        eos_token_id=stops or None,
        pad_token_id=_pad_token_id(tokenizer),
        **sampling,
    )
    devices = [model.device] if model.device.type == "cuda" else []
    with _without_own_settings(model), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        generated: Any = model.generate(  # pyright: ignore[reportCallIssue]
            input_ids=input_ids.to(model.device),
            attention_mask=attention_mask.to(model.device),
            generation_config=settings,
            **_cache(model),
        )
    # A decoder of its own does not repeat the prompt, only what it begins with.
    start = 1 if is_seq2seq(model.config) else input_ids.shape[1]
    written = generated[:, start:].tolist()
    return [_completion(ids, set(stops), tokenizer) for ids in written]


def encoded_prompts(
    model: PreTrainedModel, prompts: list[str], tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    """Token ids as the model reads them: to go on with, or, of a seq2seq model, to answer."""
    encode = encode_sources if is_seq2seq(model.config) else encode_prompts
    return encode(prompts, tokenizer)


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


def _completion(ids: list[int], stops: set[int], tokenizer: PreTrainedTokenizerBase) -> Completion:
    end = next((i for i, token in enumerate(ids) if token in stops), None)
    text = tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    if end is None:
        return Completion(text, "length", len(ids))
    return Completion(text, "stop", end + 1)


def _padded(
    prompts: list[list[int]], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
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


def _stop_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokenizer's end-of-text token and the checkpoint's: chat models have several."""
    settings: Any = model.generation_config
    of_model = settings.eos_token_id if settings is not None else None
    of_model = of_model if isinstance(of_model, list) else [of_model]
    return sorted({token for token in [*of_model, tokenizer.eos_token_id] if token is not None})


@contextmanager
def _without_own_settings(model: PreTrainedModel) -> Iterator[None]:
    """Hides the checkpoint's generation config, which fills in whatever a call leaves open."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
