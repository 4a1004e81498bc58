"""llmkd: make a small language model out of a large one."""

__version__ = "0.1.0"
