"""Tokenizers of local models, read without transformers."""

import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

from llmkd.check.facts import NotKnownError
from llmkd.check.weights import read_json
from llmkd.data import chained_sums, intents
from llmkd.recipe.data import AdditionTask, IntentTask, NamedIntentTask, Task
from llmkd.recipe.procedural import ChainedSumsTask

# As in llmkd.data.addition, whose import would bring transformers; a test compares the two.
ADDITION_VOCABULARY = {
    token: i for i, token in enumerate(["<pad>", "<bos>", "<eos>", "<unk>", *"0123456789+=;#"])
}
_MERGES = re.compile(rb',\s*"merges"\s*:\s*\[')
_END_OF_MERGES = re.compile(rb"\]\s*\}\s*\}\s*\Z")
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True)
class Tokenizer:
    """What a tokenizer calls its tokens, and into how many it cuts a text.

    Args:
        name: The folder, or the task.
        vocabulary: Token to id.
        count: (text, with special tokens) -> number of tokens.
        bos_token: The begin-of-text token, where there is one.
        frame: Which of the two special tokens it puts around a text by itself.
        decoder: Of a model with an encoder and a decoder, which reads rows otherwise.
        has_chat_template: Whether it can write out a conversation.
    """

    name: str
    vocabulary: Mapping[str, int]
    count: Callable[[str, bool], int]
    bos_token: str | None
    frame: Callable[[], "Frame"]
    decoder: "Decoder | None" = None
    has_chat_template: bool = False

    @property
    def size(self) -> int:
        """One more than the largest token id: the rows of a head that mean something."""
        return max(self.vocabulary.values(), default=-1) + 1

    def length_of_text(self, text: str) -> int:
        """Tokens of a `text`, which always begins with the begin-of-text token."""
        starts = self.bos_token is not None and not self.frame().adds_bos
        return self.count(text, True) + starts - self.frame().adds_eos

    def length_of_example(self, prompt: str, completion: str) -> int:
        """Tokens of a `prompt` and its `completion`."""
        return self.length_of_prompt(prompt) + self.count(completion, False)

    def length_of_prompt(self, prompt: str) -> int:
        """Tokens of a `prompt`, without an end-of-text token."""
        return self.count(prompt, True) - self.frame().adds_eos

    def lengths_of_sides(self, prompt: str, completion: str) -> tuple[int, int]:
        """Tokens that an encoder reads, and that its decoder is to write, without an end."""
        assert self.decoder is not None
        # As llmkd.data.seq2seq.
        frame, start = self.frame(), self.decoder.start_token_id
        is_begun = frame.adds_bos and start == self.vocabulary.get(str(self.bos_token))
        written = self.count(completion, True) - frame.adds_eos - is_begun
        return self.count(prompt, True), written


@dataclass(frozen=True)
class Decoder:
    """How the decoder of a model begins."""

    start_token_id: int | None
    """None where its configuration does not say."""


@dataclass(frozen=True)
class Frame:
    """Whether a tokenizer begins and ends a text by itself."""

    adds_bos: bool
    adds_eos: bool


ADDITION = Tokenizer(
    "task addition", ADDITION_VOCABULARY, lambda text, special: len(text) + special, "<bos>",
    lambda: Frame(adds_bos=True, adds_eos=False),
)  # fmt: skip

INTENTS = Tokenizer(
    "task intents", intents.vocabulary(), lambda text, special: len(text.split()) + 2 * special,
    None, lambda: Frame(adds_bos=False, adds_eos=False),
)  # fmt: skip

NAMED_INTENTS = Tokenizer(
    "task named_intents", intents.naming_vocabulary(), lambda text, special: len(text.split()) + special,
    "<bos>", lambda: Frame(adds_bos=True, adds_eos=False),
)  # fmt: skip

CHAINED_SUMS = Tokenizer(
    "task chained_sums", chained_sums.vocabulary(), lambda text, special: len(text) + special, "<bos>",
    lambda: Frame(adds_bos=True, adds_eos=False),
)  # fmt: skip


def tokenizer_of_task(task: Task | ChainedSumsTask) -> Tokenizer:
    """The tokenizer that a task comes with."""
    match task:
        case AdditionTask():
            return ADDITION
        case IntentTask():
            return INTENTS
        case NamedIntentTask():
            return NAMED_INTENTS
        case ChainedSumsTask():
            return CHAINED_SUMS
        case unknown:
            assert_never(unknown)


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in a model folder.

    Its vocabulary is read as plain JSON; only where texts are to be cut, the tokenizer itself is
    made, which takes several times as long.

    Raises:
        NotKnownError: There is no tokenizer.json that can be read.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise NotKnownError(f"{folder}: no tokenizer.json; the run itself will tell")
    content = path.read_bytes()
    settings = read_json(folder / "tokenizer_config.json") if _has_settings(folder) else {}
    settings = settings if isinstance(settings, dict) else {}
    bos, eos = (_text(settings.get(name)) for name in ("bos_token", "eos_token"))

    def tokens(text: str, special: bool) -> list[str]:
        return _encoded(_backend(content, str(path)), text, special).tokens

    @functools.cache
    def frame() -> Frame:
        framed, plain = tokens("a", True), tokens("a", False)
        return Frame(
            adds_bos=bos is not None and framed[:1] == [bos],
            adds_eos=eos is not None and framed[-1:] == [eos] and plain[-1:] != [eos],
        )

    return Tokenizer(
        str(folder),
        _with_added(_read_vocabulary(content, str(path)), settings),
        lambda text, special: len(_encoded(_backend(content, str(path)), text, special)),
        bos,
        frame,
        has_chat_template=bool(settings.get("chat_template"))
        or (folder / "chat_template.jinja").is_file(),
    )


@functools.lru_cache(maxsize=4)
def _vocabulary(content: bytes) -> dict[str, int]:
    """Token to id; copies of one tokenizer in several models' folders are read once."""
    whole = _parsed(content)
    known = whole["model"]["vocab"]
    # Unigram lists its tokens with their scores, the others map them to ids.
    pairs = known.items() if isinstance(known, dict) else ((t, i) for i, (t, _) in enumerate(known))
    added = ((token["content"], token["id"]) for token in whole.get("added_tokens") or ())
    vocabulary = dict([*pairs, *added])
    if set(map(type, vocabulary)) - {str} or set(map(type, vocabulary.values())) - {int}:
        raise ValueError("a token that is no text, or an id that is no integer")
    return vocabulary


def _read_vocabulary(content: bytes, path: str) -> dict[str, int]:
    try:
        return dict(_vocabulary(content))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise NotKnownError(
            f"{path}: cannot be read as a tokenizer; copy the model anew"
        ) from error


def _parsed(content: bytes) -> Any:
    """The JSON, without the merges where they end it: they take most of the time and say nothing."""
    merges = _MERGES.search(content)
    if merges is not None and _END_OF_MERGES.search(content[-64:]):
        try:
            return json.loads(content[: merges.start()] + b"}}")
        except ValueError:
            pass
    return json.loads(content)


@functools.lru_cache(maxsize=4)
def _made(content: bytes) -> Any:
    import tokenizers

    return tokenizers.Tokenizer.from_buffer(content)


def _backend(content: bytes, path: str) -> Any:
    try:
        return _made(content)
    except Exception as error:  # tokenizers raises nothing narrower.
        raise NotKnownError(f"{path}: cannot be read ({_first_line(error)})") from error


def _encoded(backend: Any, text: str, special: bool) -> Any:
    try:
        return backend.encode(text, add_special_tokens=special)
    except Exception as error:  # tokenizers raises nothing narrower.
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
