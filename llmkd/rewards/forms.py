"""Forms of texts, looked at in a process of their own; see `llmkd.rewards.worker`."""

import re
from collections.abc import Sequence


def have_form(texts: Sequence[str], pattern: str) -> list[float]:
    """1 where the whole text matches, else 0. Some patterns take for ever on some texts."""
    return [float(re.fullmatch(pattern, text, re.DOTALL) is not None) for text in texts]
