"""What a teacher is asked: text, as token ids."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from llmkd.data.columns import Need
from llmkd.data.prepare import UNCUT
from llmkd.data.seq2seq import encode_sources
from llmkd.data.tokenize import SCHEMA, Example, Tokenize, encode_prompts
from llmkd.models.kinds import is_seq2seq
from llmkd.teacher_data.store.rows import tokens_key


@dataclass(frozen=True)
class Prompt(Example):
    """A prompt as token ids, none of which is trained on."""

    text: str


class PromptTokenize(Tokenize):
    """Turns rows of `prompt` into what a teacher reads.

    Args:
        tokenizer: The teacher's.
        config: The teacher's.
    """

    need: Need = "prompt"
    schema = SCHEMA.append(pa.field("text", pa.string()))

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig):
        super().__init__(tokenizer, UNCUT)
        self.config = config
        self.form = f"prompts{', seq2seq' * is_seq2seq(config)}"

    def _examples(self, rows: list[dict[str, Any]]) -> Iterable[Prompt]:
        texts = [row["prompt"] for row in rows]
        encoded = encoded_prompts(self.config, texts, self.tokenizer)
        return (
            Prompt(ids, [], len(ids), 0, 0, tokens_key(ids), text)
            for ids, text in zip(encoded, texts, strict=True)
        )


def encoded_prompts(
    config: PreTrainedConfig, prompts: list[str], tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    """Token ids as a model reads them: to go on with, or, of a seq2seq model, to answer."""
    encode = encode_sources if is_seq2seq(config) else encode_prompts
    return encode(prompts, tokenizer)
