"""What an unquoted YAML scalar means, by the core rules of YAML 1.2.

PyYAML follows YAML 1.1, which reads `1e-4` as text, `010` as 8, `on` as true and `12:30` as 750.

References:
    YAML 1.2.2, section 10.3.2, https://yaml.org/spec/1.2.2/#1032-tag-resolution.
"""

import math
import re

NULL = re.compile(r"null|Null|NULL|~|")
BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
INT = re.compile(r"[-+]?[0-9]+")
OCTAL = re.compile(r"0o[0-7]+")
HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
INFINITY = re.compile(r"[-+]?\.(inf|Inf|INF)")
NOT_A_NUMBER = re.compile(r"\.(nan|NaN|NAN)")

LARGEST_INT = 2**63 - 1

Scalar = str | int | float | bool | None


def read_scalar(text: str) -> Scalar:
    """The value of an unquoted scalar.

    Raises:
        ValueError: A number that a 64-bit integer or float cannot hold.
    """
    if NULL.fullmatch(text):
        return None
    if BOOL.fullmatch(text):
        return text.lower() == "true"
    number = _read_number(text)
    return text if number is None else number


def _read_number(text: str) -> int | float | None:
    for pattern, base in ((INT, 10), (OCTAL, 8), (HEXADECIMAL, 16)):
        if pattern.fullmatch(text):
            return _read_int(text, base)
    if FLOAT.fullmatch(text):
        value = float(text)
        if math.isinf(value):
            raise ValueError("too large for a number")
        return value
    if INFINITY.fullmatch(text):
        return -math.inf if text.startswith("-") else math.inf
    return math.nan if NOT_A_NUMBER.fullmatch(text) else None


def _read_int(text: str, base: int) -> int:
    # Leading zeros are stripped, as Python refuses to read very long decimals.
    digits = text.lstrip("+-0") if base == 10 else text
    value = int(digits or "0", base) if len(digits) <= 70 else math.inf
    if value > LARGEST_INT:
        raise ValueError("too large for an integer of 64 bits")
    return -int(value) if text.startswith("-") else int(value)
