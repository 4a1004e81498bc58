"""YAML text as plain Python values, with the line of every key and item.

PyYAML finds the structure; what a scalar means is decided here, by YAML 1.2.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from llmkd.errors import InputError
from llmkd.recipe.scalars import read_scalar

Key = tuple[str | int, ...]
"""Where a value stands: mapping keys and list indices from the top."""

LARGEST_FILE_BYTES = 1 << 20
LARGEST_DEPTH = 50
LARGEST_NUM_VALUES = 50_000

CONTROL_CHARACTER = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
PLAIN, QUOTED, SEQUENCE, MAPPING = "plain", "quoted", "sequence", "mapping"


@dataclass
class Document:
    """What a YAML text says, and where."""

    value: Any
    lines: dict[Key, int] = field(default_factory=dict)
    """Line, from 1, of each mapping key and list item."""


def read_file(path: Path) -> Document:
    """Reads a YAML file whose top is a mapping.

    Raises:
        InputError: With `file:line` for whatever is wrong.
    """
    text = _decode(_read_bytes(path), path)
    document = read_text(text, place=lambda line: f"{path}:{line}")
    if not isinstance(document.value, dict):
        problem = "is empty" if document.value is None else "has no mapping at its top"
        raise InputError(f"{path}:1 {problem}; write `key: value` lines")
    return document


def read_text(text: str, place: Callable[[int], str]) -> Document:
    """Reads YAML text.

    Args:
        text: One YAML document.
        place: From a line to what a problem on that line begins with.

    Raises:
        InputError: With all that is wrong with the values, or the first thing that is wrong with
            the structure.
    """
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        line, problem = _explain(error)
        raise InputError(f"{place(line)} {problem}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(
            f"{place(line)} control character {_code(error.character)}; save the file as plain text"
        ) from error
    except (ValueError, OverflowError) as error:  # "\UFFFFFFFF": PyYAML passes it on to chr()
        raise InputError(f"{place(1)} not readable as YAML: {error}") from error
    converter = _Converter()
    value = None if node is None else converter.convert(node, ())
    if converter.problems:
        raise InputError([f"{place(line)} {text}" for line, text in converter.problems])
    return Document(value, converter.lines)


def _read_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > LARGEST_FILE_BYTES:
        raise InputError(f"{path}: larger than 1 MiB; give a YAML text file")
    return content


def _decode(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise InputError(
            f"{path}:{line} not UTF-8 (byte 0x{byte:02x}); save it as UTF-8"
        ) from error


class _Resolver(BaseResolver):
    """Leaves scalars alone: says only whether they were quoted."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode:
            return PLAIN if implicit[0] else QUOTED
        return SEQUENCE if kind is yaml.SequenceNode else MAPPING


class _Loader(Reader, Scanner, Parser, Composer, _Resolver):
    """PyYAML up to its node graph, with a limit on nesting."""

    def __init__(self, text: str):
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        _Resolver.__init__(self)
        self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.depth >= LARGEST_DEPTH:
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="nested too deep", problem_mark=mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Converter:
    """Turns a node graph into values; keeps lines and problems as it goes."""

    def __init__(self):
        self.lines: dict[Key, int] = {}
        self.problems: list[tuple[int, str]] = []
        self.num_values = 0

    def convert(self, node: Any, key: Key) -> Any:
        self.num_values += 1
        line = node.start_mark.line + 1
        if self.num_values > LARGEST_NUM_VALUES or len(key) > LARGEST_DEPTH:
            if not any("aliases" in problem for _, problem in self.problems):
                self._add(line, key, "aliases that grow without end; write the values out")
            return None
        if node.tag not in (PLAIN, QUOTED, SEQUENCE, MAPPING):
            self._add(line, key, f"tag `{node.tag}`; leave it out (quotes make text)")
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, key)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, (*key, index)) for index, item in enumerate(node.value)]
        return self._mapping(node, key)

    def _add(self, line: int, key: Key, problem: str) -> None:
        self.problems.append((line, f"{dotted(key)}: {problem}" if key else problem))

    def _item(self, node: Any, key: Key) -> Any:
        self.lines[key] = node.start_mark.line + 1
        return self.convert(node, key)

    def _scalar(self, node: Any, key: Key) -> Any:
        line = node.start_mark.line + 1
        if found := CONTROL_CHARACTER.search(node.value):
            self._add(line, key, f"control character {_code(ord(found[0]))}; leave it out")
            return ""
        if node.tag == QUOTED:
            return node.value
        try:
            return read_scalar(node.value)
        except ValueError as error:
            self._add(line, key, f"{node.value[:20]}... is {error}; write a smaller one")
            return None

    def _mapping(self, node: Any, key: Key) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            name = self._name(key_node, key)
            if name is None:
                continue
            place = (*key, name)
            if name in mapping:
                first = self.lines[place]
                self._add(line, place, f"given twice, first on line {first}; leave one out")
                continue
            self.lines[place] = line
            mapping[name] = self.convert(value_node, place)
        return mapping

    def _name(self, node: Any, key: Key) -> str | None:
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.ScalarNode):
            self._add(line, key, "a key that is no text; write `key: value`")
            return None
        before = len(self.problems)
        name = self._scalar(node, key)
        if len(self.problems) > before:
            return None
        if name == "<<" and node.tag == PLAIN:
            self._add(line, key, "merge key `<<`; write the keys out, or alias a whole value")
            return None
        if not isinstance(name, str):
            self._add(line, key, f'key `{node.value}` is no text; write "{node.value}" in quotes')
            return None
        return name


def dotted(key: Key) -> str:
    """`losses.0.temperature`."""
    return ".".join(str(part) for part in key)


def _code(character: Any) -> str:
    number = character if isinstance(character, int) else ord(character)
    return f"U+{number:04X}"


# What PyYAML says -> what is wrong and what to write. Tried in order.
_EXPLANATIONS = (
    (r"'\\t' that cannot start any token", "a tab; indent by spaces"),
    (r"while scanning a quoted scalar.*end of stream", "a quote is not closed; add the other one"),
    (
        r"mapping values are not allowed",
        "a `:` where none can stand; quote text that holds `: `, or mend the indentation",
    ),
    (r"could not find expected ':'", "a line without `:`; write `key: value`"),
    (r"expected <block end>", "the indentation does not match; line up with the lines above"),
    (r"expected ',' or '\]'", "a list is not closed; add `]`"),
    (r"expected ',' or '\}'", "a mapping is not closed; add `}`"),
    (r"flow node.*<stream end>", "a list or mapping is not closed; add `]` or `}`"),
    (r"expected a single document", "a second document; leave out `---`"),
    (r"undefined alias", "an alias without its anchor; write `&name` before the value"),
    (r"cannot start any token", "a character that cannot begin a value; put the value in quotes"),
    (r"nested too deep", "nested too deep; flatten it"),
)


def _explain(error: yaml.MarkedYAMLError) -> tuple[int, str]:
    """The line, and a sentence, for what PyYAML could not read."""
    said = f"{error.context or ''} {error.problem or ''}"
    mark = error.problem_mark or error.context_mark
    for pattern, explanation in _EXPLANATIONS:
        if re.search(pattern, said):
            # Where it began is where it is best mended.
            if re.search("not closed|without `:`", explanation) and error.context_mark is not None:
                mark = error.context_mark
            break
    else:
        explanation = f"not readable as YAML: {said.strip()}"
    return (1 if mark is None else mark.line + 1), explanation
