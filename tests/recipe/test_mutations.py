"""Whatever is done to a good recipe, it loads or is refused in words."""

import json
import random
import string
from pathlib import Path

import pytest

from llmkd.check.machine import Machine, Memory
from llmkd.check.report import report
from llmkd.errors import InputError
from llmkd.recipe import load_with_source
from llmkd.recipe.shipped import shipped_recipes
from llmkd.recipe.yaml_places import read_text

TEXTS = Path(__file__).parent / "texts"
ONE_STAGE = (TEXTS / "one_stage.yaml").read_text()
WHOLE = (TEXTS / "whole.yaml").read_text()
EVERY_TEXT = {
    "one stage": ONE_STAGE,
    "whole": WHOLE,
    **{path.stem: path.read_text() for path in shipped_recipes()},
}
MACHINE = Machine(Memory("main memory", 2**34, 2**33), [], "none", 2)

ODD_VALUES = [
    *["3", "-1", "0", "1e999", "1.5", ".nan", "'3'", "text", "null", "true", "on", "[]", "{}"],
    *["[1, [2]]", "{kind: jsd}", "{kind: [1]}", "{kind: null}", "stage:x", "stage:", "!!int 3"],
    *[
        "2024-01-31",
        '"\\0"',
        "*x",
        "&x [*x]",
        "99999999999999999999",
        "~/nosuch",
        "~no-such-user/x",
        "/",
        "'\u2028'",
    ],
]


def delete(text, rng):
    at = rng.randrange(len(text))
    return text[:at] + text[at + 1 :]


def insert(text, rng):
    at = rng.randrange(len(text))
    return text[:at] + rng.choice(string.printable + "\x00\x1b\x85\ufeff\u2028é") + text[at:]


def swap(text, rng):
    at = rng.randrange(len(text) - 1)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def truncate(text, rng):
    return text[: rng.randrange(len(text))]


def move_line(text, rng):
    lines = text.splitlines(keepends=True)
    line = lines.pop(rng.randrange(len(lines)))
    lines.insert(rng.randrange(len(lines) + 1), " " * rng.randrange(4) + line)
    return "".join(lines)


def corrupt(text, rng):
    content = bytearray(text.encode())
    for _ in range(rng.randrange(1, 4)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def replace_a_value(text, rng):
    value = read_text(text, str).value
    holder, key = rng.choice(list(places(value)))
    holder[key] = read_text(rng.choice(["3", "-1", "[]", "{}", "x", "{kind: []}", "~"]), str).value
    return json.dumps(value)


def misspell_a_key(text, rng):
    """As a user does: the file's own lines, one key with a letter too many, too few or swapped."""
    lines = text.splitlines(keepends=True)
    keyed = [i for i, line in enumerate(lines) if ":" in line and not line.strip().startswith("#")]
    at = rng.choice(keyed)
    return "".join(
        [*lines[:at], rng.choice([delete, insert, swap])(lines[at], rng), *lines[at + 1 :]]
    )


def delete_a_key(text, rng):
    value = read_text(text, str).value
    holder, key = rng.choice(list(places(value)))
    del holder[key]
    return json.dumps(value)


def indent_by_a_tab(text, rng):
    lines = text.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    return "".join([*lines[:at], "\t" + lines[at].lstrip(" "), *lines[at + 1 :]])


def repeat_a_line(text, rng):
    lines = text.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    return "".join([*lines[: at + 1], *lines[at:]])


def bury_in_rubbish(text, rng):
    content, at = text.encode(), rng.randrange(len(text))
    return rng.choice([rng.randbytes(300), content[:at] + rng.randbytes(20) + content[at:]])


def places(value):
    """Every mapping or list in a value with each of its keys or indices."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        yield value, key
        if isinstance(item, dict | list):
            yield from places(item)


EDITS = [
    *[delete, insert, swap, truncate, move_line, corrupt, replace_a_value, misspell_a_key],
    *[delete_a_key, indent_by_a_tab, repeat_a_line, bury_in_rubbish],
]
NUM_EDITS = 30


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
@pytest.mark.parametrize("text", EVERY_TEXT.values(), ids=EVERY_TEXT)
def test_an_edited_recipe_loads_and_can_be_checked_or_is_refused(tmp_path, text, edit):
    rng = random.Random(0)
    path = tmp_path / "edited.yaml"
    for _ in range(NUM_EDITS):
        edited = edit(text, rng)
        path.write_bytes(edited if isinstance(edited, bytes) else edited.encode())
        loads_or_is_refused(path)


@pytest.mark.parametrize("value", ODD_VALUES)
def test_an_odd_value_anywhere_loads_or_is_refused(tmp_path, value):
    path = tmp_path / "whole.yaml"
    path.write_text(WHOLE)
    rng = random.Random(0)
    keys = list(dotted_keys(read_text(WHOLE, str).value))
    for key in rng.sample(keys, 25):
        loads_or_is_refused(path, [f"{key}={value}"])


@pytest.mark.parametrize("text", EVERY_TEXT.values(), ids=EVERY_TEXT)
def test_a_misspelled_key_never_passes(tmp_path, text):
    path = tmp_path / "whole.yaml"
    value = read_text(text, str).value
    mappings = [(holder, key) for holder, key in places(value) if isinstance(holder, dict)]
    known = [(holder, key) for holder, key in mappings if holder is not value.get("stages")]
    assert len(known) > 15
    for number, (holder, key) in enumerate(known):
        items = list(holder.items())
        misspelled = (f"{key}x", key[:-1], key.upper(), f"_{key}")[number % 4]
        holder.clear()
        holder.update((misspelled if name == key else name, item) for name, item in items)
        path.write_text(json.dumps(value))
        # A configuration's keys belong to transformers, so it is the check that knows them.
        with pytest.raises(InputError, match=rf"\b{misspelled}\b"):
            report(*load_with_source(path), MACHINE)
        holder.clear()
        holder.update(items)


def dotted_keys(value, prefix=""):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield f"{prefix}{key}"
        if isinstance(item, dict | list):
            yield from dotted_keys(item, f"{prefix}{key}.")


def loads_or_is_refused(path, overrides=()):
    problems = refusal(path, overrides)
    assert problems is None or problems
    for problem in problems or []:
        assert problem.startswith((str(path), "override "))
        assert "\n" not in problem
        problem.encode()


def refusal(path, overrides):
    try:
        found = report(*load_with_source(path, overrides), MACHINE)
        json.dumps(found.as_data(), allow_nan=False)
    except InputError as error:
        return error.problems
    return None
