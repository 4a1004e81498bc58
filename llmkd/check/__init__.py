"""What a recipe will take, before anything runs: imports neither torch nor transformers."""

from llmkd.check.report import Report, check

__all__ = ["Report", "check"]
