"""What vLLM is asked for, offline and served, and how its answers are read.

Sampling is that of `transformers_engine`: from softmax(logits / temperature), cut by `top_p` alone,
whatever the checkpoint's generation config says; from that config only the end-of-text tokens are
taken. vLLM takes temperatures below 0.01, other than 0, for 0.01.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from llmkd.errors import InputError
from llmkd.models.agreement import too_few_embeddings
from llmkd.models.kinds import is_seq2seq
from llmkd.models.load import config_of, tokenizer_of
from llmkd.models.vocabulary import shared_vocab_size
from llmkd.recipe.models import PretrainedModel
from llmkd.recipe.teacher_data import Capture, Generation, TopKCapture
from llmkd.teacher_data.captured import TopKPositions
from llmkd.teacher_data.engine import FinishReason, Written

OTHER_ENGINE = "write engine: {kind: transformers}"
MAX_SPARE = 16
"""Log-probabilities that are asked for beyond K where a head has padded rows. Each costs as much as
one that is kept, and few padded rows are ever likelier than the K-th token; some heads have hundreds.
"""
NEVER = -100.0
"""The least logit bias that vLLM takes."""
MAX_BIASED = 1024
"""The most tokens with a bias that vLLM takes on an accelerator (as of those that are allowed)."""


@dataclass(frozen=True)
class Vocabulary:
    """What is known of a teacher without loading it."""

    tokenizer: PreTrainedTokenizerBase
    size: int
    """Tokens of the tokenizer."""
    num_rows: int
    """Rows of the head: those beyond `size` only pad it, and stand for no token."""
    stop_token_ids: list[int]
    """The tokenizer's end-of-text token and the checkpoint's: chat models have several."""

    @property
    def num_spare(self) -> int:
        """Log-probabilities to ask for beyond those that are kept: padded rows may take places."""
        return min(self.num_rows - self.size, MAX_SPARE)


def vocabulary_of(teacher: PretrainedModel) -> Vocabulary:
    """Reads the teacher's configuration and tokenizer.

    Raises:
        InputError: Nothing loadable is there, or a model with an encoder and a decoder, or with
            fewer embeddings than its tokenizer has tokens.
    """
    config = config_of(teacher)
    if is_seq2seq(config):
        raise InputError(
            f"teacher.model_name_or_path: {teacher.model_name_or_path} has an encoder and a "
            f"decoder ({config.model_type}), which vLLM does not run; {OTHER_ENGINE}"
        )
    tokenizer = tokenizer_of(teacher)
    size, num_rows = shared_vocab_size(tokenizer), config.get_text_config().vocab_size
    if problem := too_few_embeddings(num_rows, size, "teacher"):
        raise InputError(problem)
    return Vocabulary(tokenizer, size, num_rows, _stop_token_ids(teacher, config, tokenizer))


def _stop_token_ids(
    teacher: PretrainedModel, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    try:
        settings = GenerationConfig.from_pretrained(
            teacher.model_name_or_path, revision=teacher.revision or "main"
        )
    except OSError:
        settings = GenerationConfig.from_model_config(config)
    of_model: Any = settings.eos_token_id
    of_model = of_model if isinstance(of_model, list) else [of_model]
    return sorted({token for token in [*of_model, tokenizer.eos_token_id] if token is not None})


def num_kept(capture: Capture | None, vocabulary: Vocabulary) -> int | None:
    """Tokens kept at each position; None where nothing is captured.

    Raises:
        InputError: vLLM cannot capture this.
    """
    if capture is None:
        return None
    if not isinstance(capture, TopKCapture):
        raise InputError(
            "capture.kind: vLLM gives the likeliest tokens, not tokens drawn at random; "
            f"{OTHER_ENGINE}, or capture: {{kind: top_k}}"
        )
    if capture.temperature != 1:
        raise InputError(
            f"capture.temperature: {capture.temperature:g} is not 1, at which vLLM gives "
            f"log-probabilities; {OTHER_ENGINE}, or capture.temperature: 1"
        )
    return min(capture.top_k, vocabulary.size)


def sampling(
    generation: Generation, vocabulary: Vocabulary, *, seed: int, max_tokens: int
) -> dict[str, Any]:
    """The sampling settings of one completion, by vLLM's names: nothing is left to its defaults."""
    return {
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": seed,
        "stop": generation.stop,
        # The end-of-text tokens are all named, so that none is taken from elsewhere.
        "stop_token_ids": vocabulary.stop_token_ids,
        "ignore_eos": True,
        "max_tokens": max_tokens,
        **_without_padding(vocabulary),
    }


def _without_padding(vocabulary: Vocabulary) -> dict[str, Any]:
    """Keeps padded rows from being sampled.

    A bias costs as much as there are padded rows, of which a head has a few hundred; a list of the
    tokens that are allowed would go with every request, and has as many as the tokenizer. Where there
    are more than vLLM takes, `written` refuses the others.
    """
    padded = range(vocabulary.size, vocabulary.num_rows)[:MAX_BIASED]
    return {"logit_bias": dict.fromkeys(padded, NEVER)} if padded else {}


def scoring(ids: list[int], num_asked: int) -> tuple[list[int], dict[str, Any]]:
    """What to send for the log-probabilities of every token of a sequence but the first.

    vLLM always writes a token. It is made to write the sequence's last one, so that a sequence as
    long as vLLM reads can be scored whole; log-probabilities are of before that constraint.

    Args:
        ids: Two tokens at least.
        num_asked: Likeliest tokens to be told at each position.

    Returns:
        The prompt, and the settings by vLLM's names.
    """
    settings: dict[str, Any] = {
        "temperature": 1.0,
        "max_tokens": 1,
        "ignore_eos": True,
        "allowed_token_ids": ids[-1:],
        "logprobs": num_asked,
        "prompt_logprobs": num_asked,
    }
    return ids[:-1], settings


def check_lengths(sequences: Sequence[list[int]], max_length: int | None, what: str) -> None:
    """Refuses token sequences that vLLM would.

    Args:
        sequences: Token ids of each.
        max_length: The most tokens; None where that is not known.
        what: `prompt` or `sequence`.

    Raises:
        InputError: One has no tokens, or too many.
    """
    for number, ids in enumerate(sequences, start=1):
        if not ids:
            raise InputError(f"{what} {number} has no tokens; leave it out of the data set")
    longest = max(map(len, sequences), default=0)
    if max_length is not None and longest > max_length:
        raise InputError(
            f"engine: a {what} has {longest} tokens, and vLLM takes {max_length} of a {what} here; "
            "leave it out of the data set, or let vLLM read more (engine.max_model_len, or "
            "--max-model-len of a server)"
        )


def written(
    token_ids: list[int],
    finish_reason: str | None,
    stop_reason: int | str | None,
    vocabulary: Vocabulary,
    positions: TopKPositions | None,
) -> Written:
    """One completion.

    Args:
        token_ids: As generated.
        finish_reason: vLLM's.
        stop_reason: The stop string or the token that ended it.
        vocabulary: The teacher's.
        positions: Of each token, or None.

    Raises:
        InputError: A row that only pads the head was sampled all the same.
    """
    if max(token_ids, default=0) >= vocabulary.size:
        raise InputError(
            f"engine: vLLM wrote {max(token_ids)}, which is no token of the teacher's tokenizer; "
            f"{OTHER_ENGINE}"
        )
    reason: FinishReason = "stop" if finish_reason == "stop" else "length"
    is_ended = reason == "stop" and not isinstance(stop_reason, str)
    text: Any = vocabulary.tokenizer.decode(
        token_ids[:-1] if is_ended else token_ids,
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    if isinstance(stop_reason, str):
        # Not found where it began with the space before the first word, which a tokenizer of
        # whole words does not write: then nothing stands before it.
        text = text[: max(text.find(stop_reason), 0)]
    return Written(list(token_ids), text, reason, positions)
