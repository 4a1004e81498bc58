"""Tokenizers for small models from scratch: one token per word, unless it says otherwise."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LEAST_OFTEN = 2


def word_tokenizer(vocabulary: dict[str, int]) -> PreTrainedTokenizerFast:
    """Framed as BERT's: `[CLS] ... [SEP]`, and `... [SEP]` of a second text.

    Args:
        vocabulary: Lower-cased word to id, with the special tokens among them.
    """
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    special: dict[str, Any] = {
        f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep")
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **special,
    )


def language_tokenizer(
    vocabulary: dict[str, int], pre_tokenizer: Any, decoder: Any = None
) -> PreTrainedTokenizerFast:
    """For models that write text: begun by `<bos>`, ended by whoever builds the sequence.

    Args:
        vocabulary: Token to id, with `<pad>`, `<bos>`, `<eos>` and `<unk>` among them.
        pre_tokenizer: Cuts a text into tokens.
        decoder: Joins them again; None puts spaces between them.
    """
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizer
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def character_tokenizer(vocabulary: dict[str, int]) -> PreTrainedTokenizerFast:
    """A language model's, of one token per character; decoding gives the text back.

    Args:
        vocabulary: As of `language_tokenizer`, with characters as its tokens.
    """
    characters = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    return language_tokenizer(vocabulary, characters, decoders.Fuse())


def vocabulary_of(texts: Iterable[str]) -> dict[str, int]:
    """The words that occur at least twice, most frequent first, after the special tokens."""
    counts = Counter(word for text in texts for word in text.lower().split())
    words = [word for word, count in counts.most_common() if count >= LEAST_OFTEN]
    return {token: i for i, token in enumerate([*SPECIAL_TOKENS, *words])}
