"""The resolved recipe with the origin of each value: as YAML with comments, and as a mapping."""

from collections.abc import Iterator
from typing import Any

import yaml

from llmkd.recipe.dump import to_yaml
from llmkd.recipe.grpo_arguments import TRAINER_BLOCKS
from llmkd.recipe.places import Source
from llmkd.recipe.schema import KDRLStage, Recipe, TrainStage
from llmkd.recipe.yaml_places import Key, dotted

WIDEST_COLUMN = 56
"""Comments line up at this column, and follow longer lines two spaces behind."""
LONGEST_ORIGIN = 80


def origins(recipe: Recipe, source: Source) -> dict[str, str]:
    """The origin of each plain value and each empty list or mapping, by its dotted key."""
    return {dotted(key): source.origin(key) for key in _leaves(recipe.model_dump(), ())}


def to_yaml_with_origins(recipe: Recipe, source: Source) -> str:
    """YAML that loads back to an equal recipe; a comment behind each value says its origin.

    What llmkd sets in a `trainer` block other than transformers would stands there as a comment:
    as values, they would make another recipe of it.
    """
    text = to_yaml(recipe, width=float("inf"))
    # Not splitlines(), which also splits at what YAML keeps inside a text.
    lines = text.removesuffix("\n").split("\n")
    last_lines = dict(_last_lines(yaml.compose(text, Loader=yaml.SafeLoader), ()))
    comments = {last_lines[key]: source.origin(key) for key in _leaves(recipe.model_dump(), ())}
    written = [
        _commented(line, comments[number]) if number in comments else line
        for number, line in enumerate(lines)
    ]
    for name in reversed(recipe.stages):
        end = last_lines["stages", name, "trainer"] + 1 if _has_trainer(recipe, name) else 0
        if end:
            written[end:end] = _unwritten_defaults(recipe.stages[name])
    heading = f"# {_printable(source.file)}, resolved; behind each value, where it comes from."
    return "\n".join([heading, *written]) + "\n"


def unwritten_defaults(stage: TrainStage | KDRLStage) -> dict[str, Any]:
    """Llmkd's own defaults that a `trainer` block leaves as they are."""
    block = TRAINER_BLOCKS[stage.kind]
    return {
        name: value
        for name, value in block.defaults.items()
        if name not in stage.trainer and name not in block.owned
    }


def _has_trainer(recipe: Recipe, name: str) -> bool:
    return recipe.stages[name].kind in TRAINER_BLOCKS


def _unwritten_defaults(stage: Any) -> list[str]:
    return [
        _commented(f"      # {name}: {yaml.safe_dump(value).splitlines()[0]}", "llmkd's default")
        for name, value in unwritten_defaults(stage).items()
    ]


def _leaves(value: Any, key: Key) -> Iterator[Key]:
    """The keys of all that holds nothing more."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    if not items or not value:
        yield key
    for name, item in items:
        yield from _leaves(item, (*key, name))


def _last_lines(node: Any, key: Key) -> Iterator[tuple[Key, int]]:
    """The line, from 0, on which each value ends."""
    last = node.end_mark.line
    if isinstance(node, yaml.MappingNode):
        children = [((*key, name.value), value) for name, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [((*key, index), value) for index, value in enumerate(node.value)]
    else:
        children = []
    for child_key, child in children:
        for found, line in _last_lines(child, child_key):
            yield found, line
            last = line  # A block's own end mark stands at whatever follows it.
    yield key, last


def _commented(line: str, origin: str) -> str:
    origin = _printable(origin)
    if len(origin) > LONGEST_ORIGIN:
        origin = f"{origin[:LONGEST_ORIGIN]}..."
    return f"{line:<{WIDEST_COLUMN}}  # {origin}"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
