"""Conversations as token ids, and which of them the assistant said.

The tokenizer's chat template writes a conversation out. What is the assistant's part of it comes
from the template's own `{% generation %}` marks, or else from writing out the conversation turn by
turn: an assistant's turn is what its message adds to the beginning and the generation prompt. It
includes the token that ends the turn, but not the white space after it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from llmkd.data.conversations import Messages
from llmkd.errors import InputError

Span = tuple[int, int]

TEMPLATE_ERRORS = (jinja2.TemplateError, ValueError, TypeError, KeyError)
"""What a template may raise."""
_GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


def read_chat_template(path: str) -> str:
    """A Jinja file's content.

    Raises:
        InputError: It cannot be read.
    """
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"data.chat_template: {path} cannot be read ({error}); write the path of a Jinja file"
        ) from error


@dataclass(frozen=True)
class ChatEncoder:
    """Turns `messages` into token ids and the spans of them that are trained on.

    Args:
        tokenizer: A fast one with a chat template.
        assistant_only_loss: Train on the assistant's turns; otherwise on every token.

    Raises:
        InputError: The tokenizer has no chat template, or does not say where its tokens stand.
    """

    tokenizer: PreTrainedTokenizerBase
    assistant_only_loss: bool

    def __post_init__(self) -> None:
        if not self.tokenizer.chat_template:
            raise InputError(
                "data: the rows hold `messages`, and the tokenizer has no chat template; write "
                "data.chat_template: FILE.jinja in the train stage, which is saved with the "
                "student, or rows of prompt and completion"
            )
        if self.assistant_only_loss and not self.tokenizer.is_fast:
            raise InputError(
                "data.assistant_only_loss: a slow tokenizer does not say where its tokens stand; "
                "write assistant_only_loss: false, or use a tokenizer with a tokenizer.json"
            )

    def encode(
        self, conversations: list[Messages], first_row: int
    ) -> list[tuple[list[int], list[Span]]]:
        """Token ids and trained spans of each conversation.

        Args:
            conversations: The rows' `messages`.
            first_row: The number of the first of them, for messages.

        Raises:
            InputError: The template refuses a conversation, or does not show whose turn is whose.
        """
        encoded = []
        for number, messages in enumerate(conversations, first_row):
            try:
                encoded.append(self._encode(messages))
            except TEMPLATE_ERRORS as error:
                raise InputError(
                    f"data: row {number}, `messages`: {error or type(error).__name__}"
                ) from error
        return encoded

    def _encode(self, messages: Messages) -> tuple[list[int], list[Span]]:
        if not self.assistant_only_loss:
            ids: Any = self._render(messages, tokenize=True)["input_ids"]
            return ids, [(0, len(ids))]
        template: Any = self.tokenizer.get_chat_template()
        if _GENERATION_MARK.search(template):
            text, said = self._marked(messages, template)
        else:
            text = self._render(messages, tokenize=False)
            said = list(self._turns(messages, text))
        encoded: Any = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        # A token that reaches over the edge, such as a space with the first letter, belongs to it.
        mask = [
            any(a < end and start < b for a, b in said) for start, end in encoded["offset_mapping"]
        ]
        return encoded["input_ids"], list(_runs(mask))

    def _marked(self, messages: Messages, template: str) -> tuple[str, list[Span]]:
        """The text, and where the template's marks say that the assistant speaks."""
        # Not by apply_chat_template's mask, which runs on where a turn ends in no token of its own.
        special_tokens: Any = self.tokenizer.special_tokens_map
        rendered: Any = render_jinja_template(
            [messages],
            chat_template=template,
            return_assistant_tokens_mask=True,
            **special_tokens,
        )
        (text,), (spans,) = rendered
        return text, [(start, start + len(text[start:end].rstrip())) for start, end in spans]

    def _render(self, messages: Messages, **settings: Any) -> Any:
        return self.tokenizer.apply_chat_template(messages, return_dict=True, **settings)

    def _turns(self, messages: Messages, text: str) -> Iterator[Span]:
        """Where in the text the assistant's turns stand."""
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            upto = self._render(messages[: index + 1], tokenize=False).rstrip()
            if index:
                before = self._render(messages[:index], tokenize=False, add_generation_prompt=True)
            else:
                # No template writes an empty conversation: what is before is not the message.
                before = upto[: max(0, upto.find(message["content"].strip()))]
            if not (text.startswith(upto) and upto.startswith(before)):
                raise InputError(
                    "the chat template writes earlier turns differently once later ones follow, so "
                    "the assistant's part cannot be told; put {% generation %} and "
                    "{% endgeneration %} around it in a data.chat_template, or write "
                    "assistant_only_loss: false"
                )
            yield len(before), len(upto)


def last_answer(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The text before the assistant's last turn, and what the assistant then says.

    Both are empty where it says nothing, or no template writes what is before. The text is without the begin-of-text token that the
    tokenizer would put before it once more.
    """
    said = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if not said:
        return "", ""
    try:
        before: Any = tokenizer.apply_chat_template(
            messages[: said[-1]], tokenize=False, add_generation_prompt=True
        )
    except TEMPLATE_ERRORS:
        return "", ""
    if tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]:
        before = before.removeprefix(str(tokenizer.bos_token))
    return before, messages[said[-1]]["content"]


def _runs(mask: list[Any]) -> Iterator[Span]:
    """The stretches [start, end) in which a mask holds."""
    start = None
    for index, is_set in enumerate([*mask, False]):
        if is_set and start is None:
            start = index
        elif not is_set and start is not None:
            yield start, index
            start = None
