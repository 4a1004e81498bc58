"""The whole check: how fast it is, what it imports, and that nothing on a disk makes it fall over."""

import json
import os
import random
import resource
import subprocess
import sys

import pytest

from llmkd.check import check
from llmkd.check.show import facts_table, machine_line
from llmkd.errors import InputError
from llmkd.recipe import load
from llmkd.recipe.shipped import shipped_recipes

HEAVY = ("torch", "transformers", "datasets", "huggingface_hub", "peft", "accelerate")
LIBRARIES = "import numpy, pydantic, typer, yaml"
MOST = 7
"""Times the processor time in which the interpreter starts and imports these: seconds alone
would say how fast a machine is, and how busy."""


def timed(*arguments):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run(*arguments):
    return timed("-m", "llmkd", "check", *arguments)


@pytest.mark.parametrize("what", ["shipped", "local", "parquet"])
def test_it_takes_little_beyond_its_imports_and_imports_nothing_heavy(what, local):
    arguments = ["quickstart"] if what == "shipped" else [local / "local.yaml"]
    if what == "parquet":
        import pyarrow.parquet

        rows = pyarrow.Table.from_pylist([{"text": "1+1=2"}] * 1000)
        pyarrow.parquet.write_table(rows, local / "data.parquet")
        arguments.append(f"data.dataset_name={local}/data.parquet")
    runs = [run(*arguments) for _ in range(3)]
    libraries = [timed("-c", LIBRARIES) for _ in range(3)]

    imported = {line.split("|")[-1].strip() for line in runs[0][0].stderr.splitlines()}
    assert "llmkd.check.report" in imported
    assert not imported & set(HEAVY)
    assert min(seconds for _, seconds in runs) < MOST * min(seconds for _, seconds in libraries)


def test_the_yaml_on_stdout_loads_back_and_the_rest_is_on_stderr(local):
    done, _ = run(local / "local.yaml")
    (local / "resolved.yaml").write_text(done.stdout)

    assert load(local / "resolved.yaml") == load(local / "local.yaml")
    assert "student parameters" in done.stderr
    assert "this machine: " in done.stderr


@pytest.mark.parametrize("path", shipped_recipes(), ids=lambda path: path.stem)
def test_all_of_it_is_plain_data_and_a_table(path):
    report = check(path)
    data = json.loads(json.dumps(report.as_data(), allow_nan=False))

    assert data.keys() == {"recipe", "origins", "stages", "machine", "warnings"}
    assert data["stages"].keys() == report.recipe.stages.keys()
    for stage in data["stages"].values():
        assert stage["memory_verdict"] in ("fits", "tight", "does not fit", "not known")
        for fact in stage["facts"].values():
            assert (fact["value"] is None) == (fact["exactness"] == "not known")
            assert fact["value"] is not None or fact["how"], "the reason is said"
    assert facts_table(report).row_count == sum(len(s["facts"]) for s in data["stages"].values())
    assert "free" in machine_line(report)


def problems_or_data(check, *arguments):
    """What a check refuses, or else what it finds, as JSON."""
    try:
        report = check(*arguments)
    except InputError as error:
        return error.problems, None
    return [], json.dumps(report.as_data(), allow_nan=False)


def damage(content, rng):
    content = bytearray(content)
    match rng.randrange(4):
        case 0:
            return bytes(content[: rng.randrange(len(content) + 1)])
        case 1:
            return rng.randbytes(rng.randrange(200))
        case 2:
            for _ in range(rng.randrange(1, 20)):
                content[rng.randrange(len(content))] = rng.randrange(256)
            return bytes(content)
        case _:
            return rng.choice([b"", b"null", b"[]", b"{}", b"3", b'"a"', b"[" * 5000, b"\xff\xfe"])


FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@pytest.mark.parametrize("name", [*FILES, "data.jsonl", "data.parquet"])
def test_damaged_files_are_not_known_or_refused_in_words(name, local, checked):
    import pyarrow.parquet

    arguments = []
    if name == "data.parquet":
        rows = pyarrow.Table.from_pylist([{"text": "1+1=2"}] * 50)
        pyarrow.parquet.write_table(rows, local / name)
        arguments = [f"data.dataset_name={local}/{name}"]
    path = local / name if name.startswith("data") else local / "teacher" / name
    whole, rng = path.read_bytes(), random.Random(0)
    for _ in range(60):
        path.write_bytes(damage(whole, rng))
        problems, data = problems_or_data(checked, local / "local.yaml", *arguments)
        assert data or problems
        assert all("\n" not in problem for problem in problems)


@pytest.mark.parametrize("name", [*FILES, "data.jsonl"])
@pytest.mark.parametrize("how", ["gone", "a folder", "unreadable", "a loop"])
def test_files_that_cannot_be_read_are_not_known(how, name, local, checked):
    path = local / name if name.startswith("data") else local / "teacher" / name
    if how == "unreadable":
        if os.geteuid() == 0:
            pytest.skip("root reads everything")
        path.chmod(0)
    else:
        path.unlink()
    if how == "a folder":
        path.mkdir()
    if how == "a loop":
        path.symlink_to(path)
    problems, data = problems_or_data(checked, local / "local.yaml")
    if name == "data.jsonl" and how != "unreadable":
        said = "has no file that is .jsonl" if how == "a folder" else "data.jsonl does not exist"
        assert said in problems[0]
    else:
        assert data


@pytest.mark.parametrize(
    "override",
    [
        "trainer.num_train_epochs=1e308", "trainer.per_device_train_batch_size=9223372036854775807",
        "data.max_length=9223372036854775807", "trainer.max_steps=9223372036854775807",
        "trainer.gradient_accumulation_steps=9223372036854775807", "output_dir=/proc/none/a",
        "student.lora={r: 9223372036854775807}", "trainer.save_total_limit=9223372036854775807",
        "trainer.save_steps=1e-300", "trainer.save_strategy=epoch", "output_dir=~nobody-here/x",
        "student={kind: scratch, config: {model_type: llama, hidden_size: 9223372036854775807}}",
        "student={kind: scratch, config: {model_type: llama, dtype: [1], head_dim: {}}}",
        "student={kind: scratch, config: {model_type: nosuch}, tokenizer_name_or_path: hub/x}",
    ],
)  # fmt: skip
def test_odd_numbers_and_names_are_taken_calmly(override, local, checked):
    report = checked(local / "local.yaml", override)

    json.dumps(report.as_data(), allow_nan=False)
    facts_table(report)
