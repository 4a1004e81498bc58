"""Answers that are one of several choices."""

import re
from collections.abc import Sequence

from llmkd.rewards.exact import UNANSWERED, Grade, marked_answers, normalised

# Bounded, as two runs of white space side by side take time that is the square of their length.
_OPENED = r"^[\s(\[{*\"'$]{0,20}(?:(?i:option|choice)\s+)?(?:\\(?:text|math)\w*\s*\{)?[\s(]{0,9}"
_NAMING = r"(?i:\b(?:answer|option|choice)\b\s{0,9}(?:is\b|:|=)?[\s:*]{0,9})"
_PRAISE = r"(?=\s+is\s+(?:the\s+)?(?:correct|right|best|answer)\b)"
_NOT_WRONG = r"(?!\s+(?:is\s+(?:not|wrong|incorrect|false)|isn't)\b)"


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
    3. The last label in brackets, such as (B) or (b), or named as one: option B, B is correct.
    4. The last line has the words of one choice, and of no other.

    A label of one letter counts where a bracket, a full stop or the end follows, and of a marked
    answer also before other words: "B because". "A cat" is no A. What comes after "not" or before "is
    wrong" is not chosen.

    Example:
        >>> chosen_label("It is hot, so (B).", labels=["A", "B"], choices=["ice", "the sun"])
        'B'
    """
    letters = [label for label in labels if re.fullmatch("[A-Z]", label)]
    for part, lone in (*((part, letters) for part in marked_answers(text)), (text, [])):
        if (label := _beginning(part, labels, choices, lone)) is not None:
            return label
    if (label := _last_named(text, labels, letters)) is not None:
        return label
    last_line = next(iter(text.strip().splitlines()[::-1]), "")
    named = [
        label for label, choice in zip(labels, choices, strict=True) if _has(last_line, choice)
    ]
    return named[0] if len(named) == 1 else None


def right_label(reference: str, labels: Sequence[str], choices: Sequence[str]) -> str | None:
    """The label that a reference is, or that of the choice that it is or makes; None of neither."""
    if reference in labels:
        return reference
    if reference in choices:
        return labels[choices.index(reference)]
    return chosen_label(reference, labels=labels, choices=choices)


def _beginning(
    part: str, labels: Sequence[str], choices: Sequence[str], lone: Sequence[str]
) -> str | None:
    """The label or choice that a part begins with; `lone` are those that need no mark after them."""
    found = re.match(
        rf"{_OPENED}(?P<label>{_any(labels)})(?:[)\]}}.:,*\"'$]|\s*$){_NOT_WRONG}", part
    ) or re.match(rf"[\s*]*\((?P<label>(?i:{_any(labels)}))\){_NOT_WRONG}", part)
    if found:
        return _label(found["label"], labels)
    # The longest first: "ice cream" is more than "ice".
    pairs = sorted(zip(labels, choices, strict=True), key=lambda pair: -len(pair[1]))
    for label, choice in pairs:
        if re.match(rf"{_OPENED}{re.escape(choice)}(?!\w)", part, re.IGNORECASE):
            return label
    if lone and (found := re.match(rf"{_OPENED}(?P<label>{_lone(lone)})", part)):
        return found["label"]
    return next((label for label in labels if normalised(part) == normalised(label)), None)


def _last_named(text: str, labels: Sequence[str], letters: Sequence[str]) -> str | None:
    """The last label in brackets, or letter named as a label, that is not denied."""
    forms = [rf"(?<!\w)\((?P<bracketed>(?i:{_any(labels)}))\){_NOT_WRONG}"]
    if letters:
        forms.append(rf"{_NAMING}(?P<said>{_lone(letters)})")
        forms.append(rf"(?<!\w)(?P<praised>{_any(letters)}){_PRAISE}")
    label = None
    for found in re.finditer(rf"(?P<denied>(?i:\bnot|n't)\s+)?(?:{'|'.join(forms)})", text):
        named = next(
            value for name, value in found.groupdict().items() if name != "denied" and value
        )
        label = label if found["denied"] else _label(named, labels)
    return label


def _label(written: str, labels: Sequence[str]) -> str:
    """The label as it is, or else but for case."""
    if written in labels:
        return written
    return next(label for label in labels if re.fullmatch(f"(?i:{re.escape(label)})", written))


def _has(line: str, choice: str) -> bool:
    words = rf"(?<!\w)(?<!\bnot\s){re.escape(choice)}(?!\w)"
    return re.search(words, line, re.IGNORECASE) is not None


def _lone(letters: Sequence[str]) -> str:
    """A letter by itself, which is no article or pronoun: A or I before a word in small letters."""
    word = r"(?!\s+(?!because\b|since\b|is\b)[a-z])"
    return rf"(?:(?:(?![AI])|(?=\w{word}))(?:{_any(letters)})(?![\w'\-]){_NOT_WRONG})"


def _any(labels: Sequence[str]) -> str:
    return "|".join(map(re.escape, labels))
