"""How a value of a recipe is shown in an error, and hints at what was meant by it."""

import json
import math
from typing import Any

from llmkd.recipe.scalars import read_scalar
from llmkd.secrets import masked

LONGEST = 60


def shown(value: Any) -> str:
    """A value as one would write it in YAML, shortened; lists and mappings by name only."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    text = masked(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def unquoted(value: Any, wanted: Any) -> str:
    """The hint for a number in quotes, or for a whole one written as a fraction."""
    if isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    try:
        is_number = isinstance(value, str) and isinstance(read_scalar(value), wanted)
    except ValueError:
        return ""
    return f" in quotes; write {value}" if is_number else ""


def truth(value: Any) -> str:
    """The hint for true or false in another language's words."""
    words = {"yes": "true", "on": "true", "1": "true", "no": "false", "off": "false", "0": "false"}
    meaning = words.get(str(value).lower(), str(value).lower())
    return f"; write {meaning}" if meaning in ("true", "false") else ""
