"""`llmkd check` as a user meets it: what it refuses, and how it says so."""

import json

import pytest

GOOD = """\
name: one
kind: train
student: {kind: scratch, config: {model_type: llama, hidden_size: 64}}
data: {kind: task, task: addition, digits: 3, num_examples: 100}
losses: [{kind: cross_entropy}]
trainer: {max_steps: 10, learning_rate: 3e-3}
"""
TWO_STAGES = """\
name: two
stages:
  teacher:
    kind: train
    student: {kind: scratch, config: {model_type: llama, hidden_size: 64}}
    data: &data {kind: task, num_examples: 100}
    losses: [{kind: cross_entropy}]
  student:
    kind: train
    student: {model_name_or_path: stage:teacher}
    teacher: {model_name_or_path: NAME}
    data: *data
    losses: [{kind: forward_kl}]
"""


@pytest.fixture
def refusal(llmkd):
    """What `llmkd check` says of a text that it refuses."""

    def of(text, *overrides):
        path = llmkd.folder / "bad.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        out, err = llmkd.run("check", "bad.yaml", *overrides, status=2)
        assert out == ""
        assert "Traceback" not in err
        return err.rstrip()

    return of


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "bad.yaml:1 a list or mapping is not closed; add `]` or `}`"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "bad.yaml:1 not UTF-8 (byte 0x89); save it as UTF-8"),
        (GOOD.replace("losses", "\tlosses"), "bad.yaml:5 a tab; indent by spaces"),
        (f"{GOOD}name: two\n", "bad.yaml:7 name: given twice, first on line 1; leave one out"),
        (
            GOOD.replace("trainer", "trainr"),
            "bad.yaml:6 trainr: no such field; did you mean `trainer`?",
        ),
        (
            f"{GOOD}sequence_len: 3\n",
            "bad.yaml:7 sequence_len: no such field; llmkd calls it `data.max_length`",
        ),
        (
            GOOD.replace("max_steps: 10", "max_steps: 1_000"),
            'bad.yaml:6 trainer.max_steps: input should be an integer; got "1_000"',
        ),
        (
            GOOD.replace("max_steps: 10", "max_steps: 12:30"),
            'bad.yaml:6 trainer.max_steps: input should be an integer; got "12:30"',
        ),
        (
            GOOD.replace("max_steps: 10", "bf16: on"),
            'bad.yaml:6 trainer.bf16: input should be true or false; got "on"; write true',
        ),
        (
            GOOD.replace("3e-3", "-3e-3"),
            "bad.yaml:6 trainer.learning_rate: input should be greater than 0; got -0.003",
        ),
        (
            GOOD.replace("hidden_size", "hiden_size"),
            "bad.yaml:3 student.config.hiden_size: llama has no such field; did you mean "
            "`hidden_size`?",
        ),
        (
            TWO_STAGES.replace("NAME", "stage:nobody"),
            "bad.yaml:11 stages.student.teacher.model_name_or_path: no stage is called `nobody`; "
            "write one of stage:teacher",
        ),
        (
            TWO_STAGES.replace("NAME", "stage:student"),
            "bad.yaml:11 stages.student.teacher.model_name_or_path: stage:student is this stage "
            "itself; write one of stage:teacher",
        ),
        (
            TWO_STAGES.replace("NAME", "./nowhere"),
            "bad.yaml:11 stages.student.teacher.model_name_or_path: ./nowhere does not exist; write "
            "a path that does (paths start at the current folder)",
        ),
    ],
)
def test_bad_input_is_told_with_its_line_and_what_to_write(refusal, text, message):
    assert refusal(text) == message


def test_a_missing_file_names_what_there_is(llmkd):
    _, err = llmkd.run("check", "nosuch.yaml", status=2)
    assert "nosuch.yaml: no such file or shipped recipe; write one of annotate, cot, glue" in err
    _, err = llmkd.run("check", status=2)
    assert err.startswith("RECIPE: missing; write a recipe's path")


def test_the_traps_of_yaml_are_read_as_one_means_them(llmkd):
    text = GOOD.replace("3e-3", "1e-4").replace("max_steps: 10", "max_steps: 010, run_name: on")
    (llmkd.folder / "good.yaml").write_text(text)
    out, _ = llmkd.run("check", "good.yaml", "--json")
    found = json.loads(out)
    trainer = {"max_steps": 10, "run_name": "on", "learning_rate": 1e-4}
    assert found["recipe"]["stages"]["train"]["trainer"] == trainer
    assert found["origins"]["stages.train.trainer.max_steps"] == "good.yaml:6"
    assert found["stages"]["train"]["facts"]["steps"]["value"] == 10


def test_quiet_leaves_the_recipe_alone_on_stdout(llmkd):
    (llmkd.folder / "good.yaml").write_text(GOOD)
    out, err = llmkd.run("check", "good.yaml", "--quiet")
    assert out.startswith("# good.yaml, resolved")
    assert err == ""


def test_the_schema_is_printed_without_a_recipe(llmkd):
    out, _ = llmkd.run("check", "--schema")
    assert json.loads(out)["title"] == "llmkd recipe"


def test_an_engine_is_held_against_a_device_that_is_not_here(llmkd):
    (llmkd.folder / "one.yaml").write_text(GOOD)
    engine = ("--launch", "zero3", "--num-processes", "8", "--device-memory-gib", "80", "--json")
    out, _ = llmkd.run("check", "one.yaml", *engine)

    found = json.loads(out)
    memory = found["stages"]["train"]["facts"]["memory"]
    assert "in each of 8 processes by zero3" in memory["how"]
    assert "gathered" in memory["parts"]
    assert found["machine"]["accelerators"][0]["name"] == "a device of 80 GiB"
