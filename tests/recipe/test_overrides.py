import pytest

from llmkd.errors import InputError
from llmkd.recipe.overrides import apply_overrides

DATA = {"seed": 0, "losses": [{"kind": "jsd"}, {}], "teacher": None, "stages": {"student": {}}}


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("seed=1", ("seed",), 1),
        ("trainer.learning_rate=1e-4", ("trainer", "learning_rate"), 1e-4),
        ("trainer.save_steps=010", ("trainer", "save_steps"), 10),
        ("losses.1.weight=.5", ("losses", 1, "weight"), 0.5),
        ("losses.0={kind: x, alpha: [1, on]}", ("losses", 0), {"kind": "x", "alpha": [1, "on"]}),
        ("losses=[]", ("losses",), []),
        ("name='1'", ("name",), "1"),
        ("name=a=b", ("name",), "a=b"),
        ("output_dir=", ("output_dir",), None),
        ("a.b.c=text with spaces", ("a", "b", "c"), "text with spaces"),
        ("teacher.model_name_or_path=x", ("teacher", "model_name_or_path"), "x"),
        ("stages.student.seed=1", ("stages", "student", "seed"), 1),
    ],
)
def test_an_override_puts_its_value(text, key, value):
    data, overrides = apply_overrides(DATA, [text])

    assert overrides[0].key == key
    for part in key:
        data = data[part]
    assert data == value


def test_the_last_override_rules_and_the_original_stays():
    data, overrides = apply_overrides(DATA, ["seed=1", "losses.1.weight=2", "seed=3"])

    assert data["seed"] == 3
    assert data["losses"][1] == {"weight": 2}
    assert [override.text for override in overrides] == ["seed=1", "losses.1.weight=2", "seed=3"]
    assert DATA["losses"][1] == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed", "not in the form key=value; write e.g. seed=1"),
        ("=1", "not in the form key=value; write e.g. seed=1"),
        ("a..b=1", "not in the form key=value; write e.g. seed=1"),
        ("seed.x=1", "seed is 0, which holds nothing; write seed=..."),
        ("losses.2=1", "losses is a list; write an index from 0 to 1, or the whole of it"),
        ("losses.-1=1", "losses is a list; write an index from 0 to 1, or the whole of it"),
        ("losses.²=1", "losses is a list; write an index from 0 to 1, or the whole of it"),
        ("losses.x.weight=1", "losses is a list; write an index from 0 to 1, or the whole of it"),
        ("stages.studnt.seed=1", "no stage is called `studnt`; did you mean `student`?"),
        ("seed=[1", "a list is not closed; add `]`"),
        ("seed={a: 1, a: 2}", "a: given twice, first on line 1; leave one out"),
        ("seed=1e999", "1e999... is too large for a number; write a smaller one"),
    ],
)
def test_an_override_without_a_place_or_a_value_is_refused(text, message):
    with pytest.raises(InputError) as caught:
        apply_overrides(DATA, [text])
    assert str(caught.value) == f"override {text}: {message}"


def test_an_empty_list_has_no_index():
    with pytest.raises(
        InputError, match=r"losses is a list; it is empty, so write losses=\[\.\.\.\]"
    ):
        apply_overrides({"losses": []}, ["losses.0.kind=jsd"])


def test_all_bad_overrides_are_reported():
    with pytest.raises(InputError) as caught:
        apply_overrides(DATA, ["seed", "seed.x=1", "seed=2"])
    assert len(caught.value.problems) == 2
