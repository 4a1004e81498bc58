import pytest

from llmkd.errors import InputError
from llmkd.recipe.yaml_places import read_file, read_text

GOOD = """\
name: a  # comment
losses:
  - kind: jsd
    weight: 1e-4

  - {kind: "010", at: 12:30, on: off}
copy: &anchor [1, 2]
again: *anchor
"""


def read(text):
    return read_text(text, place=lambda line: f"bad.yaml:{line}")


def test_values_and_the_line_of_every_key_and_item_are_kept():
    document = read(GOOD)

    assert document.value == {
        "name": "a",
        "losses": [{"kind": "jsd", "weight": 1e-4}, {"kind": "010", "at": "12:30", "on": "off"}],
        "copy": [1, 2],
        "again": [1, 2],
    }
    assert document.lines[("name",)] == 1
    assert document.lines[("losses", 0)] == 3
    assert document.lines[("losses", 0, "weight")] == 4
    assert document.lines[("losses", 1, "on")] == 6
    assert document.value["copy"] is not document.value["again"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "bad.yaml:3 a: given twice, first on line 1; leave one out"),
        ("a:\n\tb: 1", "bad.yaml:2 a tab; indent by spaces"),
        ("a: [1, 2\nb: 3", "bad.yaml:1 a list is not closed; add `]`"),
        ("a: {b: 1\nc", "bad.yaml:1 a mapping is not closed; add `}`"),
        ("a: 1\nb: [", "bad.yaml:2 a list or mapping is not closed; add `]` or `}`"),
        ("a: 'text", "bad.yaml:1 a quote is not closed; add the other one"),
        (
            "a: b: c",
            "bad.yaml:1 a `:` where none can stand; quote text that holds `: `, or mend the "
            "indentation",
        ),
        (
            "a:\n    b: 1\n  c: 2",
            "bad.yaml:3 the indentation does not match; line up with the lines above",
        ),
        ("a: 1\nb\n", "bad.yaml:2 a line without `:`; write `key: value`"),
        ("a: 1\n---\nb: 2", "bad.yaml:2 a second document; leave out `---`"),
        ("a: *b", "bad.yaml:1 an alias without its anchor; write `&name` before the value"),
        ("a: @b", "bad.yaml:1 a character that cannot begin a value; put the value in quotes"),
        ("a: 1\nb: \x00", "bad.yaml:2 control character U+0000; save the file as plain text"),
        ('a: "\\0"', "bad.yaml:1 a: control character U+0000; leave it out"),
        ('a: "\\ud800"', "bad.yaml:1 a: control character U+D800; leave it out"),
        ("1: a", 'bad.yaml:1 key `1` is no text; write "1" in quotes'),
        ("a:\n  ? [b]\n  : c", "bad.yaml:2 a: a key that is no text; write `key: value`"),
        (
            "a: !!str 3",
            "bad.yaml:1 a: tag `tag:yaml.org,2002:str`; leave it out (quotes make text)",
        ),
        ("a: 1e999", "bad.yaml:1 a: 1e999... is too large for a number; write a smaller one"),
        (
            "a: &x {b: 1}\nc:\n  <<: *x",
            "bad.yaml:3 c: merge key `<<`; write the keys out, or alias a whole value",
        ),
        (
            "a: &x [*x]",
            f"bad.yaml:1 a{'.0' * 50}: aliases that grow without end; write the values out",
        ),
        ("[" * 60, "bad.yaml:1 nested too deep; flatten it"),
    ],
)
def test_bad_yaml_is_refused_with_its_line(text, message):
    with pytest.raises(InputError) as caught:
        read(text)
    assert str(caught.value) == message


def test_aliases_that_double_are_refused_soon():
    text = "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)
    )

    with pytest.raises(
        InputError, match=r"^bad.yaml:\d+ [^\n]*aliases that grow without end[^\n]*$"
    ):
        read(text)


def test_a_character_out_of_range_is_refused():
    with pytest.raises(InputError, match=r"bad\.yaml:1 not readable as YAML"):
        read('a: "\\UFFFFFFFF"')


def test_all_bad_values_are_reported_at_once():
    with pytest.raises(InputError) as caught:
        read("a: 1\na: 2\nb: !x 3\n4: 5")
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ":1 is empty; write `key: value` lines"),
        (b"# only a comment\n", ":1 is empty; write `key: value` lines"),
        (b"- a\n- b\n", ":1 has no mapping at its top; write `key: value` lines"),
        (b"a: 1\nb: \xff\n", ":2 not UTF-8 (byte 0xff); save it as UTF-8"),
        (b"a: 1\n" * 300_000, ": larger than 1 MiB; give a YAML text file"),
    ],
)
def test_bad_files_are_refused(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)

    with pytest.raises(InputError) as caught:
        read_file(path)
    assert str(caught.value) == f"{path}{message}"


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_file(tmp_path)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")

    document = read_file(path)

    assert document.value == {"a": 1, "b": 2}
    assert document.lines[("b",)] == 2
