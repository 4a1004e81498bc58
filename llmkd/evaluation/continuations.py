"""How models go on with the first texts of a data set: samples to read, not to score."""

from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmkd.data.chat import last_answer
from llmkd.data.prompts import encoded_prompts
from llmkd.data.sources import Row, iter_rows
from llmkd.data.tokenize import encode_prompts
from llmkd.evaluation.details import Sample
from llmkd.models.positions import room_after
from llmkd.recipe.evaluation import PerplexityTask
from llmkd.teacher_data.transformers_engine import generate

NUM_TEXTS = 4
PROMPT_LENGTH, CONTINUATION_LENGTH = 32, 48
CHARACTERS_LOOKED_AT = 100 * (PROMPT_LENGTH + CONTINUATION_LENGTH)
"""Of a text: enough for its first tokens, however long a book it is."""


@dataclass(frozen=True)
class Beginning:
    """A text, cut in two."""

    example: int
    """The row, in the order of the data."""
    prompt: str
    reference: str
    """How the text goes on."""


def beginnings(
    task: PerplexityTask, tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> list[Beginning]:
    """The first rows of a task's data: what is given to the models, and how it goes on.

    Of a text, 32 tokens are given and the next 48 are the reference; shorter texts are cut in the
    same proportion, and those of a single token are left out. Of a conversation, all before the
    assistant's last turn is given.

    Args:
        task: Whose data.
        tokenizer: Decides where texts are cut. What is cut is text again, so that a model with
            another tokenizer gets the same prompts.
        seed: Of the rows, where they are made rather than read.
    """
    most = min(NUM_TEXTS, task.data.num_examples or NUM_TEXTS)
    source = task.data.model_copy(update={"num_examples": most})
    rows = iter_rows(source, seed=seed, need="scored")
    cut = [(i, *_halves(row, tokenizer)) for i, row in enumerate(rows)]
    whole = [Beginning(i, prompt, rest) for i, prompt, rest in cut if prompt and rest]
    lengths = map(len, encode_prompts([text.prompt for text in whole], tokenizer)) if whole else ()
    return [
        text for text, length in zip(whole, lengths, strict=True) if length < task.data.max_length
    ]


def _halves(row: Row, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    if "text" in row:
        return _cut(row["text"][:CHARACTERS_LOOKED_AT], tokenizer)
    if "messages" in row:
        return last_answer(row["messages"], tokenizer)
    return row["prompt"], row["completion"]


def continued(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[Beginning],
    *,
    batch_size: int,
    seed: int,
) -> list[Sample]:
    """What a model greedily writes after the prompts, at most 48 tokens each.

    Fewer where the model has positions for fewer, and nothing where it has none to spare.

    Args:
        model: In evaluation mode.
        tokenizer: The model's.
        texts: From `beginnings`.
        batch_size: Most prompts continued together.
        seed: Greedy text does not depend on it.
    """
    prompts = [text.prompt for text in texts]
    length = _room(model, tokenizer, prompts)
    if length < 1:
        return []
    completions = [
        completion
        for start in range(0, len(prompts), batch_size)
        for completion in generate(
            model,
            tokenizer,
            prompts[start : start + batch_size],
            temperature=0.0,
            max_completion_length=length,
            seed=seed,
        )
    ]
    return [
        Sample(text.example, text.prompt, text.reference, done.text, done.num_tokens, None)
        for text, done in zip(texts, completions, strict=True)
    ]


def _cut(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    assert isinstance(ids, list)
    total = PROMPT_LENGTH + CONTINUATION_LENGTH
    length = min(PROMPT_LENGTH, max(1, len(ids) * PROMPT_LENGTH // total))
    # A character of several tokens may be cut in two: it then belongs to what follows.
    prompt = _decoded(ids[:length], tokenizer).rstrip("\ufffd")
    whole = _decoded(ids[: length + CONTINUATION_LENGTH], tokenizer).rstrip("\ufffd")
    # Decoded by itself, the rest could lose the space that it begins with.
    return prompt, whole.removeprefix(prompt)


def _decoded(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def _room(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> int:
    """Tokens that may be written after the longest prompt."""
    if not prompts:
        return 0
    longest = max(map(len, encoded_prompts(model.config, prompts, tokenizer)))
    return min(CONTINUATION_LENGTH, room_after(model, longest))
