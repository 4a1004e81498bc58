"""Answers that are one of several choices."""

import re
from collections.abc import Sequence

from llmkd.rewards.exact import UNANSWERED, Grade, marked_answers, normalised


def multiple_choice(
    text: str, reference: str, *, labels: Sequence[str], choices: Sequence[str]
) -> Grade:
    """Whether a text chooses the reference; see `chosen_label`.

    Args:
        text: What was written.
        reference: The label of the right choice.
        labels: Of the choices, such as A to E.
        choices: As many texts.
    """
    label = chosen_label(text, labels=labels, choices=choices)
    return UNANSWERED if label is None else Grade(label, label == reference)


def chosen_label(text: str, *, labels: Sequence[str], choices: Sequence[str]) -> str | None:
    r"""The label of the choice that a text makes, or None.

    Looked for in this order:

    1. A marked answer (`\boxed{...}`, then `####`, then `answer is`) that begins with a label or a
       choice.
    2. The text itself begins so.
    3. The last label in brackets, such as (B).
    4. The last line has the words of one choice, and of no other.

    A label of one letter counts where a bracket, a full stop or the end follows: "A cat" is no A.

    Example:
        >>> chosen_label("It is hot, so (B).", labels=["A", "B"], choices=["ice", "the sun"])
        'B'
    """
    for part in (*marked_answers(text), text):
        if (label := _beginning(part, labels, choices)) is not None:
            return label
    in_brackets = re.findall(rf"\(({_any(labels)})\)", text)
    if in_brackets:
        return in_brackets[-1]
    last_line = next(iter(text.strip().splitlines()[::-1]), "")
    named = [
        label for label, choice in zip(labels, choices, strict=True) if _has(last_line, choice)
    ]
    return named[0] if len(named) == 1 else None


def _beginning(part: str, labels: Sequence[str], choices: Sequence[str]) -> str | None:
    opened = r"^[\s(\[{*\"'$]*(?:\\text\w*\{)?[\s(]*"
    found = re.match(rf"{opened}({_any(labels)})(?:[)\]}}.:,*\"'$]|\s*$)", part)
    if found:
        return found[1]
    # The longest first: "ice cream" is more than "ice".
    pairs = sorted(zip(labels, choices, strict=True), key=lambda pair: -len(pair[1]))
    for label, choice in pairs:
        if re.match(rf"{opened}{re.escape(choice)}(?!\w)", part, re.IGNORECASE):
            return label
    return next((label for label in labels if normalised(part) == normalised(label)), None)


def _has(line: str, choice: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", line, re.IGNORECASE) is not None


def _any(labels: Sequence[str]) -> str:
    return "|".join(map(re.escape, labels))
