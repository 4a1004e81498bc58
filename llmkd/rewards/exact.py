"""Where a text says what its answer is, and whether that is the reference to the letter."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Grade:
    """What a grader makes of a text."""

    answer: str | None
    """The answer that was found, equal for texts that answer the same; None where there is none."""
    is_right: bool


UNANSWERED = Grade(None, False)
_BRACES = re.compile(r"(?P<box>\\f?box(?:ed)?\s*\{)|\{|(?P<closed>\})")
_ANSWER_IS = re.compile(r"answer(?:\*\*)?\s*(?:is\b|:|=)[\s:*]*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")


def boxed_answer(text: str) -> str | None:
    r"""What the last closed `\boxed{...}` of a text holds.

    Example:
        >>> boxed_answer(r"so \boxed{\frac{1}{2}}, or \boxed{")
        '\\frac{1}{2}'
    """
    # In one pass, for a rollout may open thousands: where each brace that is still open began.
    opened, last = list[int | None](), None
    for brace in _BRACES.finditer(text):
        if not brace["closed"]:
            opened.append(brace.end() if brace["box"] else None)
        elif opened and (start := opened.pop()) is not None:
            last = max(last or (0, 0), (start, brace.start()))
    return None if last is None else text[slice(*last)]


def marked_answers(text: str) -> Iterator[str]:
    r"""What a text marks as its answer, the surest mark first.

    1. The content of the last closed `\boxed{...}`.
    2. What follows the last `####`, to the end of the line.
    3. What follows the last `answer is`, `answer:` or `answer =`, to the end of the sentence.
    """
    boxed = boxed_answer(text)
    if boxed is not None and boxed.strip():
        yield boxed.strip()
    _, mark, rest = text.rpartition("####")
    if mark and rest.strip():
        yield rest.strip().splitlines()[0].strip()
    *_, said = "", *_ANSWER_IS.split(text)[1:]
    if said.strip():
        yield _SENTENCE_END.split(said.splitlines()[0])[0].strip()


def marked_answer(text: str) -> str | None:
    """What a text most surely marks as its answer; None where it marks nothing."""
    return next(marked_answers(text), None)


def normalised(text: str) -> str:
    """Text without case, marks and quotes around it, full stop, or width of white space.

    Example:
        >>> normalised("  **The  Moon**. ")
        'the moon'
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.strip("*\"'`$ ").rstrip(".,;:!? *\"'`$")


def exact_match(text: str, reference: str) -> Grade:
    """Whether the marked answer is the reference's; of a text that marks none, all of it counts.

    Case, white space, quotes and full stops around the two make no difference.

    Args:
        text: What was written.
        reference: The right answer, or a text that marks it.

    Example:
        >>> exact_match("It is blue. The answer is Paris.", "paris")
        Grade(answer='paris', is_right=True)
    """
    answer = normalised(marked_answer(text) or text)
    if not answer:
        return UNANSWERED
    return Grade(answer, answer == normalised(marked_answer(reference) or reference))
