"""The folder of what can be made again: tokenized rows, compiled extensions. It may be deleted at any time."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$LLMKD_CACHE`, or else `llmkd` in the user's cache folder."""
    if own := os.environ.get("LLMKD_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "llmkd"
