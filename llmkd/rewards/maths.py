"""Answers that are numbers or formulas."""

import re
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from llmkd.errors import InputError
from llmkd.rewards.exact import UNANSWERED, Grade, boxed_answer, marked_answer, normalised
from llmkd.rewards.exact import marked_answers as _marked

_DIGITS = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{1,2})?"
_NUMBER = re.compile(
    # No sign is a minus between two terms: 10-3 has the numbers 10 and 3.
    rf"(?P<sign>(?<![\w.)\]])-\$?|(?<![\w.)\]])\$-)?"
    rf"(?:(?P<whole>\d+)\s+(?=\d+/))?(?P<top>{_DIGITS})(?:\s*/\s*(?P<bottom>0*[1-9]\d*))?",
    re.ASCII,
)
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{(\d+)\}\s*\{(\d+)\}|(\d)\s*(\d))")
_SPACED = re.compile(
    # 1 234 and 1\,234, but not 0.5 100 and not the mixed number 1 100/3.
    r"(?<![\w.,/])[1-9]\d{0,2}(?:(?:\\[,;: ]|[ ~\u00a0\u2009\u202f])\d{3})+(?!\d|\s*/)",
    re.ASCII,
)
_EXPONENT = r"\^\s*(?:\{\s*(?P<braced>[+-]?\d+)\s*\}|(?P<bare>[+-]?\d+))"
_SCIENTIFIC = re.compile(
    rf"(?<=\d)\s*(?:\\times|\\cdot|[*\u00d7\u22c5])\s*10\s*{_EXPONENT}", re.ASCII
)
_POWER = re.compile(rf"(?:(?P<base>(?<![\d.,])\d[\d.,]*|\([^()]*\))\s*)?{_EXPONENT}", re.ASCII)
_WORDS = re.compile(r"(?<!\\)\b[A-Za-z]{2,}")
_MAX_EXPONENT = 99
_SECONDS = 5
"""After which a comparison is given up."""


def number(text: str, reference: str) -> Grade:
    r"""Whether a text's number is the reference's, exactly.

    Looked for in this order: the first number of each marked answer (`\boxed{...}`, then `####`, then
    `answer is`), and else the last number of the text. Thousands separators, spaces among them,
    currency and units make no difference, a percent sign is a unit, 1/2 is 0.5, and 10^6 is 1000000.
    Powers of other than whole numbers, and exponents above 99, are not read.

    Args:
        text: What was written.
        reference: The right number, or a text that ends in it.

    Raises:
        InputError: The reference has no number.

    Example:
        >>> number("48 + 24 is 72 clips.", "Natalia sold 72. #### 72")
        Grade(answer='72', is_right=True)
    """
    right = number_of(reference)
    if right is None:
        raise InputError(f"answer {reference!r}: no number in it; write one, or another grader")
    found = number_of(text)
    return UNANSWERED if found is None else Grade(str(found), found == right)


def number_of(text: str) -> Fraction | None:
    """The number that a text answers with; see `number`."""
    for answer in _marked(text):
        if (found := next(_numbers(answer), None)) is not None:
            return found
    *_, last = None, *_numbers(text)
    return last


def math_verify(text: str, reference: str) -> Grade:
    r"""Whether a text's formula equals the reference's, by math-verify.

    Looked for in the last `\boxed{...}`, else after the last `####` or `answer is`, else wherever
    math-verify finds it. What cannot be parsed is no answer, unless it is the reference to the letter.
    Formulas that take more than 5 seconds are given up; outside the main thread, where signals cannot
    interrupt, they are waited for.

    Args:
        text: What was written.
        reference: The right formula, in LaTeX with or without dollars, or a text that marks it.

    Raises:
        InputError: math-verify is not installed.

    References:
        Kydlicek 2025, https://github.com/huggingface/Math-Verify.
    """
    right, said = marked_answer(reference) or reference, marked_answer(text)
    is_literal = said is not None and normalised(said) == normalised(right)
    is_boxed = said == (boxed_answer(text) or "").strip()
    found = _parsed([text] if said is None else _forms(said, is_formula=is_boxed))
    if not found:
        return Grade(normalised(right), is_right=True) if is_literal else UNANSWERED
    # To the letter or not, the name is the parsed form, so that equal answers vote together.
    return Grade(_name(found[0]), is_literal or _is_equal(right, found))


def _numbers(text: str) -> Iterator[Fraction]:
    for found in _NUMBER.finditer(_plain(text)):
        try:
            value = Fraction(found["top"].replace(",", "")) / int(found["bottom"] or 1)
            value += int(found["whole"] or 0)
        except ValueError:
            continue  # Thousands of digits, which Python refuses to read.
        yield -value if found["sign"] else value


def _plain(text: str) -> str:
    """A text with its numbers as `_NUMBER` reads them."""
    for written, meant in (("\N{MINUS SIGN}", "-"), ("\\$", "$"), ("{,}", ","), ("\\!", "")):
        text = text.replace(written, meant)
    text = _SPACED.sub(lambda found: re.sub(r"\D", "", found[0]), text)
    text = _SCIENTIFIC.sub(lambda found: "e" + (found["braced"] or found["bare"]), text)
    text = _POWER.sub(_power, text)
    return _FRACTION.sub(lambda found: "{}/{}".format(*filter(None, found.groups())), text)


def _power(found: re.Match[str]) -> str:
    """A power's value; nothing where it cannot be read, or is a unit's such as that of cm^2."""
    base, exponent = (found["base"] or "").replace(",", ""), found["braced"] or found["bare"]
    if not base.isdigit() or len(base) > 9 or len(exponent) > 3:
        return " "
    whole, power = int(base), int(exponent)
    if abs(power) > _MAX_EXPONENT or (whole == 0 and power < 0):
        return " "
    return str(Fraction(whole) ** power)


def _forms(answer: str, *, is_formula: bool) -> list[str]:
    """How math-verify may read an answer: as LaTeX, which it needs dollars for, and as it is."""
    if "$" in answer:
        return [answer]
    formula = "$" + re.sub(r"(?<!\\)%", r"\\%", answer) + "$"
    has_words = _WORDS.search(answer) is not None
    return [formula, answer] if is_formula or not has_words else [answer, formula]


def _parsed(forms: list[str]) -> list[Any]:
    try:
        from math_verify import parse
    except ImportError as error:
        raise InputError(
            "grader: math_verify is not installed; run pip install 'llmkd[eval]', or write "
            "grader: number"
        ) from error
    for form in forms:
        try:
            if found := parse(form, parsing_timeout=_timeout()):  # pyright: ignore[reportArgumentType]
                return found
        except Exception:  # noqa: BLE001 - whatever a text makes a parser do, it is no answer.
            continue
    return []


def _is_equal(right: str, found: list[Any]) -> bool:
    from math_verify import verify

    golds = _parsed(_forms(right, is_formula=True))
    try:
        return bool(golds) and verify(golds, found, timeout_seconds=_timeout())
    except Exception:  # noqa: BLE001 - what cannot be compared is not equal.
        return False


def _name(found: Any) -> str:
    try:
        return str(found)
    except Exception:  # noqa: BLE001 - numbers too long to be written.
        return "unwritable"


def _timeout() -> int | None:
    is_main = threading.current_thread() is threading.main_thread()
    return _SECONDS if is_main else None
