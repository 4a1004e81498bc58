"""How many logits are held while text is scored. Imports no torch, so an estimate can ask too."""

LOGITS_AT_ONCE = 2**26
"""A batch's positions times the vocabulary, unless one window alone has more."""
POSITIONS_AT_ONCE = 1024
"""Positions whose logits are held in float32 at a time."""
