"""A recipe as YAML with every default filled in, which loads back to an equal recipe."""

import re

import yaml

from llmkd.recipe.scalars import FLOAT, HEXADECIMAL, INT, OCTAL
from llmkd.recipe.schema import Recipe

LINE_LENGTH = 100


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would read as something else."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    # Line ends to YAML 1.1, which other styles fold into spaces.
    style = '"' if any(mark in value for mark in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)

# SafeDumper knows YAML 1.1 alone, in which `1e-4` and `0o7` are text that needs no quotes.
for _tag, _pattern in (("int", INT), ("int", OCTAL), ("int", HEXADECIMAL), ("float", FLOAT)):
    _Dumper.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(f"^(?:{_pattern.pattern})$"),
        list("-+.0123456789"),
    )


def to_yaml(recipe: Recipe, *, width: float = LINE_LENGTH) -> str:
    """The resolved recipe, in the order of the schema's fields; text is folded at `width`."""
    return yaml.dump(
        recipe.model_dump(),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=width,
    )
