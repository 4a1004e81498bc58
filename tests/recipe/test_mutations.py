"""Whatever is done to a good recipe, it loads or is refused in words."""

import json
import random
import string
from pathlib import Path

import pytest

from llmkd.errors import InputError
from llmkd.recipe import load
from llmkd.recipe.yaml_places import read_text

TEXTS = Path(__file__).parent / "texts"
ONE_STAGE = (TEXTS / "one_stage.yaml").read_text()
WHOLE = (TEXTS / "whole.yaml").read_text()

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


def places(value):
    """Every mapping or list in a value with each of its keys or indices."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        yield value, key
        if isinstance(item, dict | list):
            yield from places(item)


EDITS = [delete, insert, swap, truncate, move_line, corrupt, replace_a_value]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
@pytest.mark.parametrize("text", [ONE_STAGE, WHOLE], ids=["one stage", "whole"])
def test_an_edited_recipe_loads_or_is_refused(tmp_path, text, edit):
    rng = random.Random(0)
    path = tmp_path / "edited.yaml"
    for _ in range(60):
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


def test_a_misspelled_key_never_passes(tmp_path):
    path = tmp_path / "whole.yaml"
    value = read_text(WHOLE, str).value
    mappings = [(holder, key) for holder, key in places(value) if isinstance(holder, dict)]
    # A configuration's keys belong to transformers, and stages are named at will.
    known = [(h, k) for h, k in mappings if k not in ("model_type", "hidden_size")]
    known = [(holder, key) for holder, key in known if holder is not value["stages"]]
    assert len(known) > 50
    for holder, key in known:
        items = list(holder.items())
        for misspelled in (f"{key}x", key[:-1], key.upper(), f"_{key}"):
            holder.clear()
            holder.update((misspelled if name == key else name, item) for name, item in items)
            path.write_text(json.dumps(value))
            with pytest.raises(InputError, match=rf"\b{misspelled}\b"):
                load(path)
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
        load(path, overrides)
    except InputError as error:
        return error.problems
    return None
