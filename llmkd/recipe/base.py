"""What every part of a recipe shares: frozen, typed to the letter, no unknown keys."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Discriminator

from llmkd.recipe.yaml_places import Key

STAGE_REFERENCE = "stage:"


class RecipePart(BaseModel):
    """A frozen piece of a recipe whose unknown keys are errors and whose fields are documented."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


def parts_of(value: Any, key: Key = ()) -> Iterator[tuple[Key, RecipePart]]:
    """Each part of a recipe within a value, itself included, and where it stands.

    Args:
        value: A part, or a list or mapping of parts.
        key: Its own.
    """
    items: Any = ()
    if isinstance(value, RecipePart):
        yield key, value
        items = ((name, getattr(value, name)) for name in type(value).model_fields)
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    elif isinstance(value, dict):
        items = value.items()
    for name, item in items:
        yield from parts_of(item, (*key, name))


def kind_or(default: str, field: str = "kind") -> Discriminator:
    """Tells the members of a union apart by `kind`, which may be left out for `default`.

    Args:
        default: The tag of the member that is meant without it.
        field: Another field to tell them apart by; errors name it.
    """

    def tag(value: Any) -> str:
        if isinstance(value, dict):
            return value.get(field, default)
        return getattr(value, field, default)

    # Pydantic says by which function it could not tell.
    tag.__name__ = field
    return Discriminator(tag)


def referenced_stage(value: str) -> str | None:
    """The NAME of `stage:NAME`, or None where `value` is a path or a hub name."""
    return value.removeprefix(STAGE_REFERENCE) if value.startswith(STAGE_REFERENCE) else None
