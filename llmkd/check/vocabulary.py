"""Tokenizers of local models, read without transformers."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmkd.check.facts import NotKnownError
from llmkd.check.weights import read_json

# As in llmkd.data.addition, whose import would bring transformers; a test compares the two.
ADDITION_VOCABULARY = {
    token: i for i, token in enumerate(["<pad>", "<bos>", "<eos>", "<unk>", *"0123456789+=;#"])
}
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True)
class Tokenizer:
    """What a tokenizer calls its tokens, and into how many it cuts a text.

    Args:
        name: The folder, or the task.
        vocabulary: Token to id.
        count: (text, with special tokens) -> number of tokens.
        bos_token: The begin-of-text token, where there is one.
        adds_bos: Whether it puts that token before a text by itself.
        adds_eos: Whether it puts the end-of-text token behind a text by itself.
    """

    name: str
    vocabulary: Mapping[str, int]
    count: Callable[[str, bool], int]
    bos_token: str | None
    adds_bos: bool
    adds_eos: bool

    @property
    def size(self) -> int:
        """One more than the largest token id: the rows of a head that mean something."""
        return max(self.vocabulary.values(), default=-1) + 1

    def length_of_text(self, text: str) -> int:
        """Tokens of a `text`, which always begins with the begin-of-text token."""
        starts = self.bos_token is not None and not self.adds_bos
        return self.count(text, True) + starts - self.adds_eos

    def length_of_example(self, prompt: str, completion: str) -> int:
        """Tokens of a `prompt` and its `completion`."""
        return self.count(prompt, True) - self.adds_eos + self.count(completion, False)


ADDITION = Tokenizer(
    "task addition", ADDITION_VOCABULARY, lambda text, special: len(text) + special, "<bos>",
    adds_bos=True, adds_eos=False,
)  # fmt: skip


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in a model folder.

    Raises:
        NotKnownError: There is no tokenizer.json that can be read.
    """
    if not (folder / "tokenizer.json").is_file():
        raise NotKnownError(f"{folder}: no tokenizer.json; the run itself will tell")
    backend = _backend((folder / "tokenizer.json").read_bytes(), str(folder / "tokenizer.json"))
    settings = read_json(folder / "tokenizer_config.json") if _has_settings(folder) else {}
    settings = settings if isinstance(settings, dict) else {}
    vocabulary = _with_added(backend.get_vocab(), settings)
    special = {name: _text(settings.get(name)) for name in SPECIAL_TOKENS}
    bos, eos = special["bos_token"], special["eos_token"]
    framed, plain = (_encoded(backend, "a", flag).tokens for flag in (True, False))
    return Tokenizer(
        str(folder),
        vocabulary,
        lambda text, special: len(_encoded(backend, text, special)),
        bos,
        adds_bos=bos is not None and framed[:1] == [bos],
        adds_eos=eos is not None and framed[-1:] == [eos] and plain[-1:] != [eos],
    )


@functools.lru_cache(maxsize=4)
def _backend(content: bytes, path: str) -> Any:
    """Copies of one tokenizer in several models' folders are read once."""
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_buffer(content)
    except Exception as error:
        raise NotKnownError(f"{path}: cannot be read ({_first_line(error)})") from error


def _encoded(backend: Any, text: str, special: bool) -> Any:
    try:
        return backend.encode(text, add_special_tokens=special)
    except Exception as error:
        reason = _first_line(error)
        raise NotKnownError(f"the tokenizer cannot read the text ({reason})") from error


def _has_settings(folder: Path) -> bool:
    return (folder / "tokenizer_config.json").is_file()


def _with_added(vocabulary: dict[str, int], settings: dict[str, Any]) -> dict[str, int]:
    """With the tokens that only the settings name: transformers adds them when it loads."""
    decoder = settings.get("added_tokens_decoder")
    for number, token in decoder.items() if isinstance(decoder, dict) else ():
        text = _text(token)
        if text is not None and number.isdecimal() and len(number) < 10:
            vocabulary.setdefault(text, int(number))
    for name in SPECIAL_TOKENS:
        text = _text(settings.get(name))
        if text is not None and text not in vocabulary:
            vocabulary[text] = max(vocabulary.values(), default=-1) + 1
    return vocabulary


def _text(token: Any) -> str | None:
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
