"""What pydantic found wrong with a recipe, as sentences that say what to write instead."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from llmkd.recipe.foreign_names import FOREIGN_NAMES
from llmkd.recipe.places import Problem, meant, nearest
from llmkd.recipe.schema import Recipe
from llmkd.recipe.schema_walk import (
    Location,
    Model,
    described,
    field_places,
    is_model,
    locate,
    tags,
    union_members,
)
from llmkd.recipe.training_arguments import OWNED, training_arguments
from llmkd.recipe.values import shown, truth, unquoted
from llmkd.recipe.yaml_places import Key


def problems_of(error: ValidationError, root: Model, data: Any) -> list[Problem]:
    """Each thing that is wrong with `data`, once."""
    found: list[Problem] = []
    for details in error.errors(include_url=False):
        location = locate(details["loc"], root)
        if location.choice is None:
            found.append(_problem(details, location, root))
            continue
        value = value_at(data, location.choice.key)
        chosen = _chosen_member(location.choice.members, value)
        if chosen is None:
            wanted = " or ".join(described(member) for member in location.choice.members)
            message = f"input should be {wanted}; got {shown(value)}"
            found.append(Problem(location.choice.key, message))
        elif location.choice.member.split("[")[0] == chosen:
            found.append(_problem(details, location, root))
    return list(dict.fromkeys(found))


def value_at(data: Any, key: Key) -> Any:
    """The value at a key; None where there is none."""
    for part in key:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def _chosen_member(members: Iterable[Any], value: Any) -> str | None:
    """Which member of an untagged union a mapping or a list was meant for, as pydantic labels it."""
    for member in members:
        if isinstance(value, dict) and is_model(member):
            return member.__name__
        if isinstance(value, list) and described(member) == "a list":
            return "list"
    return None


def _problem(details: ErrorDetails, location: Location, root: Model) -> Problem:
    key, kind, value = location.key, details["type"], details["input"]
    is_plain = not is_model(location.annotation) and len(union_members(location.annotation)) == 1
    if isinstance(value, dict) and location.siblings and is_plain:
        # A mapping without `kind`, where a plain value is the default.
        return _missing_kind(value, key, location.siblings)
    match kind:
        case "extra_forbidden":
            return Problem(key, _unknown_field(location, root))
        case "missing":
            return Problem(key, f"missing; {_how_to_fill(location)}")
        case "union_tag_invalid" | "union_tag_not_found":
            return _wrong_kind(details, location)
        case "dict_type" | "model_type" | "model_attributes_type":
            return Problem(
                key, f"input should be a mapping; got {shown(value)}{_wrapped(location, value)}"
            )
        case _:
            return Problem(key, _wrong_value(details))


def _wrong_value(details: ErrorDetails) -> str:
    value, context = details["input"], details.get("ctx", {})
    match details["type"]:
        case "string_type":
            quoted = isinstance(value, int | float) or value is None
            hint = f'; write it in quotes: "{shown(value)}"' if quoted else ""
            return f"input should be text; got {shown(value)}{hint}"
        case "int_type" | "int_from_float":
            return f"input should be an integer; got {shown(value)}{unquoted(value, int)}"
        case "float_type":
            return f"input should be a number; got {shown(value)}{unquoted(value, int | float)}"
        case "bool_type":
            return f"input should be true or false; got {shown(value)}{truth(value)}"
        case "list_type":
            hint = "" if isinstance(value, dict) or value is None else f"; write [{_plain(value)}]"
            return f"input should be a list; got {shown(value)}{hint}"
        case "literal_error":
            choices = str(context["expected"]).replace("'", "`")
            near = nearest(value, choices.split("`")[1::2]) if isinstance(value, str) else None
            hint = f"; did you mean `{near}`?" if near else ""
            return f"input should be {choices}; got {shown(value)}{hint}"
        case "string_too_short":
            return "is empty; write some text"
        case "too_short":
            return "is empty; write at least one"
        case "string_pattern_mismatch":
            return f"input should match {context['pattern']}; got {shown(value)}"
        case _:
            said = details["msg"]
            return f"{said[0].lower()}{said[1:]}; got {shown(value)}"


def _wrong_kind(details: ErrorDetails, location: Location) -> Problem:
    value, members = details["input"], union_members(location.annotation)
    if details["type"] == "union_tag_not_found":
        return _missing_kind(value, location.key, members)
    # As llmkd.recipe.base.kind_or names it: `kind()` of a function, 'kind' of a field.
    field = details.get("ctx", {})["discriminator"].strip("'()")
    kind, names = value[field], _all_kinds(members)
    hint = meant(kind, names) if isinstance(kind, str) else f"write one of {', '.join(names)}"
    if "did you mean" in hint:
        hint += f" (there are {', '.join(names)})"
    return Problem((*location.key, field), f"no such {field} {shown(kind)}; {hint}")


def _missing_kind(value: Mapping[str, Any], key: Key, members: Iterable[Any]) -> Problem:
    near = nearest("kind", value)
    names = ", ".join(_all_kinds(members))
    hint = f"write `kind` instead of `{near}`" if near else f"write one of {names}"
    return Problem((*key, "kind"), f"missing; {hint}")


def _all_kinds(members: Iterable[Any]) -> list[str]:
    """What tells a union's members apart; a plain value, such as a number, has no kind."""
    return [tag for member in members if _is_mapping(member) for tag in tags(member)]


def _is_mapping(member: Any) -> bool:
    inside = union_members(member)
    return is_model(inside[0]) if len(inside) == 1 else all(map(_is_mapping, inside))


def _how_to_fill(location: Location) -> str:
    name = location.key[-1]
    holder = location.holders[-1][1]
    field = holder.model_fields.get(str(name))
    says = field.description if field else None
    first = f" ({says.split('. ')[0].rstrip('.')})" if says else ""
    return f"write `{name}: ...`{' '.join(first.split(chr(10)))}"


def _wrapped(location: Location, value: Any) -> str:
    """What to write for a bare name where a mapping with that name in it is wanted."""
    models = [union_members(member)[0] for member in union_members(location.annotation)]
    model = models[0]
    if not isinstance(value, str) or len(models) != 1 or not is_model(model):
        return ""
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    return f"; write {{{required[0]}: {value}}}" if len(required) == 1 else ""


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else shown(value)


def _unknown_field(location: Location, root: Model) -> str:
    """Says what was meant: another toolkit's name, a field of elsewhere, or a misspelling."""
    name = str(location.key[-1])
    holder_key, holder = location.holders[-1]
    fields = holder.model_fields
    places = _places(location, root)
    if llmkd_name := FOREIGN_NAMES.get(name):
        place = llmkd_name if llmkd_name in fields else places.get(llmkd_name.split(".")[-1])
        if place and "." in llmkd_name:
            place = llmkd_name.split(".")[-1] if llmkd_name.split(".")[-1] in fields else llmkd_name
        if place:
            return f"no such field; llmkd calls it `{place}`"
    if near := nearest(name, fields):
        return f"no such field; did you mean `{near}`?"
    if place := _elsewhere(name, holder_key, places):
        return f"no such field here; write it as {place}"
    if near := nearest(name, _top_fields(location)):
        return f"no such field; did you mean `{near}`?"
    return f"no such field; the fields here are {', '.join(fields)}"


def _top_fields(location: Location) -> Iterable[str]:
    """The recipe's own fields, where a stage's keys may stand beside them."""
    return Recipe.model_fields if len(location.key) == 3 and location.key[0] == "stages" else ()


def _places(location: Location, root: Model) -> dict[str, str]:
    """Where in the stage around a location (or in the whole) each field name stands."""
    stage = next((model for key, model in location.holders if len(key) == 2), None)
    in_stage: type[BaseModel] = root if stage is None or root is not Recipe else stage
    places = field_places(in_stage)
    if "trainer" in in_stage.model_fields:
        trainer = {name: f"trainer.{name}" for name in training_arguments() if name not in OWNED}
        places = trainer | places
    return places


def _elsewhere(name: str, holder_key: Key, places: Mapping[str, str]) -> str | None:
    if len(holder_key) >= 2 and name in Recipe.model_fields and name != "name":
        return f"`{name}` at the top of the recipe"
    place = places.get(name)
    if place is None:
        return None
    # A field of the same place, but of another kind, is not elsewhere.
    around = ".".join("N" if isinstance(part, int) else str(part) for part in holder_key[2:])
    return None if place == f"{around}.{name}".lstrip(".") else f"`{place}`"
