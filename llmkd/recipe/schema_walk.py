"""Where in the schema, and where in the recipe, an error of pydantic's stands.

Pydantic's places hold the tags of unions (`losses, 0, forward_kl, weight`); a recipe has none.
"""

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Tag

from llmkd.recipe.yaml_places import Key

Model = type[BaseModel]


@dataclass(frozen=True)
class Choice:
    """A union whose members pydantic tries in turn, and the one that an error is about."""

    key: Key
    members: tuple[Any, ...]
    member: str


@dataclass(frozen=True)
class Location:
    """Where an error stands."""

    key: Key
    """Keys and indices from the top, as in the recipe."""
    annotation: Any
    """The type wanted there; None where the schema does not say."""
    holders: tuple[tuple[Key, Model], ...]
    """The models around it and where they stand, outermost first."""
    siblings: tuple[Any, ...]
    """The members of the tagged union whose member it is; empty where it is none's."""
    choice: Choice | None
    """The outermost untagged union that it stands in."""


def locate(loc: Key, root: Model) -> Location:
    """Walks down the schema along pydantic's `loc`."""
    annotation: Any = root
    key: Key = ()
    holders: list[tuple[Key, Model]] = []
    choice: Choice | None = None
    siblings: tuple[Any, ...] = ()
    for part in loc:
        members = list(union_members(annotation))
        if len(members) > 1:
            if choice is None and not _is_tagged(members):
                choice = Choice(key, tuple(members), str(part))
            siblings = tuple(members) if _is_tagged(members) else ()
            annotation = _member(members, str(part))
            continue
        siblings = ()
        if part == "[key]":
            break
        annotation = members[0]
        if is_model(annotation):
            holders.append((key, annotation))
        annotation = _inside(annotation, part)
        key = (*key, part)
    return Location(key, annotation, tuple(holders), siblings, choice)


def is_model(annotation: Any) -> bool:
    """Whether it is a pydantic model."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def union_members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union without None; a type that is no union is its own one member."""
    bare = _bare(annotation)
    if get_origin(bare) not in (Union, types.UnionType):
        return (bare,)
    members = tuple(member for member in get_args(bare) if member is not type(None))
    # Of a union or None, the union's own.
    return union_members(members[0]) if len(members) == 1 else members


def kinds(model: Model) -> tuple[str, ...]:
    """What `kind` may be in a model; empty where it has none."""
    field = model.model_fields.get("kind")
    return () if field is None else get_args(field.annotation)


def field_places(model: Model, prefix: str = "") -> dict[str, str]:
    """From each field's name to where it first stands below a model: `losses.N.temperature`."""
    places: dict[str, str] = {}
    nested: list[tuple[str, Model]] = []
    for name, field in model.model_fields.items():
        if name != "kind":
            places.setdefault(name, f"{prefix}{name}")
        nested += [(f"{prefix}{name}.{dots}", part) for dots, part in _models_in(field.annotation)]
    for dots, part in nested:
        for name, place in field_places(part, dots).items():
            places.setdefault(name, place)
    return places


def _models_in(annotation: Any) -> Iterator[tuple[str, Model]]:
    for member in map(_bare, union_members(annotation)):
        if is_model(member):
            yield "", member
        elif len(union_members(member)) > 1:
            yield from _models_in(member)
        elif get_origin(member) in (list, dict):
            name = "N." if get_origin(member) is list else "NAME."
            for dots, model in _models_in(get_args(member)[-1]):
                yield name + dots, model


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def tags(member: Any) -> tuple[str, ...]:
    """The tags by which a member of a tagged union is known."""
    if get_origin(member) is Annotated:
        tags = tuple(mark.tag for mark in member.__metadata__ if isinstance(mark, Tag))
        if tags:
            return tags
    bare = _bare(member)
    return kinds(bare) if is_model(bare) else ()


def _is_tagged(members: Sequence[Any]) -> bool:
    return all(tags(member) for member in members)


def _member(members: Sequence[Any], label: str) -> Any:
    """The member that pydantic labels so: by tag, by class name, or as `list[str]`."""
    for member in members:
        bare = _bare(member)
        name = getattr(get_origin(bare) or bare, "__name__", "")
        if label in tags(member) or label.split("[")[0] == name:
            return member
    return None


def _inside(annotation: Any, part: str | int) -> Any:
    """The type of what a type holds at a key or index."""
    if is_model(annotation):
        field = annotation.model_fields.get(str(part))
        return None if field is None else field.annotation
    if get_origin(annotation) in (list, dict):
        return get_args(annotation)[-1]
    return None


def described(annotation: Any) -> str:
    """A type in words: `text`, `a list`, `a mapping`."""
    bare = _bare(annotation)
    if is_model(bare) or bare is dict or get_origin(bare) is dict:
        return "a mapping"
    if bare is list or get_origin(bare) is list:
        return "a list"
    if get_origin(bare) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(bare))
    words = {str: "text", int: "an integer", float: "a number", bool: "true or false"}
    return words.get(bare, str(bare))
