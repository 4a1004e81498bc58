"""What may be a secret is left out of what is shown and written."""

import re

_VALUE = re.compile(r"((?:^|[._-])(?:token|api_key|password|secret)=).+", re.I | re.S)
_USER = re.compile(r"://[^/\s]*@")


def masked(text: str) -> str:
    """A text without the value of `token=...` and its kin, or what a URL has before its host.

    Args:
        text: A word of a command line, such as `trainer.hub_token=...`, or a value of a recipe.
    """
    return _USER.sub("://***@", _VALUE.sub(r"\1***", text))
