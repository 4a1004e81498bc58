"""Samples side by side: what each model answered, and where it leaves the reference."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from llmkd.report.stage_files import Answer, Sample

LONGEST_TEXT = 2000
"""Characters that are shown of a text."""
LONGEST_BY_CHARACTER = 160
"""Shorter texts are compared by character, longer ones by word."""
WORDS = re.compile(r"\w+|\s+|[^\w\s]")


@dataclass(frozen=True)
class Piece:
    """A stretch of an answer."""

    text: str
    is_different: bool


@dataclass(frozen=True)
class ShownAnswer:
    """A model's answer, ready for the page."""

    model: str
    color: str
    answer: Answer
    pieces: list[Piece]


@dataclass(frozen=True)
class Card:
    """One example."""

    sample: Sample
    prompt: str
    reference: str | None
    answers: list[ShownAnswer]


def cards(samples: Sequence[Sample], colors: Mapping[str, str]) -> list[Card]:
    """The examples in order, each with its answers in the order of the models."""
    return [
        Card(
            sample,
            cut(sample.prompt),
            None if sample.reference is None else cut(sample.reference),
            [
                ShownAnswer(
                    model,
                    colors.get(model, "other-0"),
                    answer,
                    pieces(cut(answer.text), _comparable(sample.reference, answer)),
                )
                for model, answer in sample.answers.items()
            ],
        )
        for sample in samples
    ]


def pieces(text: str, reference: str | None) -> list[Piece]:
    """The text in stretches that are in the reference at this place, or are not.

    Example:
        >>> [piece.text for piece in pieces("1+2=4", "1+2=3") if piece.is_different]
        ['4']
    """
    if reference is None or text == reference:
        return [Piece(text, is_different=False)] if text else []
    ours, theirs = _parts(text, reference), _parts(reference, text)
    matcher = SequenceMatcher(None, theirs, ours, autojunk=False)
    return [
        Piece("".join(ours[start:end]), is_different=tag != "equal")
        for tag, _, _, start, end in matcher.get_opcodes()
        if start < end
    ]


def cut(text: str) -> str:
    """A text's beginning."""
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"


def _comparable(reference: str | None, answer: Answer) -> str | None:
    """What to hold an answer against: nothing where it is right, or where texts are free to differ."""
    return cut(reference) if reference is not None and answer.is_right is False else None


def _parts(text: str, other: str) -> list[str]:
    is_short = max(len(text), len(other)) <= LONGEST_BY_CHARACTER
    return list(text) if is_short else WORDS.findall(text)
