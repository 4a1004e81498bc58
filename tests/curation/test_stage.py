"""The stage within a recipe: what refuses it, what it makes, and who reads that."""

import json
import tracemalloc

import pytest
import yaml
from typer.testing import CliRunner

from llmkd.build_objective import build_objective
from llmkd.check.deep import try_stages
from llmkd.check.report import report
from llmkd.errors import InputError
from llmkd.pipeline import generate_teacher_data, run
from llmkd.recipe import load, load_with_source
from llmkd.recipe.references import needed_for
from llmkd.run_folder import read_stage
from llmkd.run_plan import Run
from llmkd.run_stage import run_stage

ROWS = [
    {"prompt": f"{i}+1=", "completion": str(i + 1 + (i % 3 == 0)), "answer": i + 1, "number": i}
    for i in range(9)
]
VERIFY = {"kind": "verify", "grader": "number"}
SHAPE = {
    "model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 1,
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path, write_rows, monkeypatch):
    """Writes a recipe with a curate stage and what is given besides; gives its path."""
    monkeypatch.chdir(tmp_path)

    def write(*steps, data=None, **stages):
        curated = {"kind": "curate", "data": data or write_rows(ROWS), "steps": list(steps)}
        content = {
            "name": "tiny",
            "output_dir": str(tmp_path / "run"),
            "stages": {"curated": curated} | stages,
        }
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


def student(tokenizer_folder, weight):
    return {
        "kind": "train",
        "student": {"kind": "scratch", "config": SHAPE, "tokenizer_name_or_path": tokenizer_folder},
        "data": {"dataset_name": "stage:curated", "max_length": 32},
        "losses": [{"kind": "cross_entropy", "weight": weight}],
        "trainer": {"max_steps": 2, "per_device_train_batch_size": 2, "use_cpu": True},
    }


def test_a_train_stage_reads_what_is_left_and_weighs_by_it(recipe, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    weight = {"kind": "kept_fraction", "stage": "stage:curated", "at_none": 3.0, "at_all": 0.0}
    path = recipe(VERIFY, student=student(str(tmp_path / "tokenizer"), weight))
    job = Run(load(path))
    run_stage(job, "curated")
    assert job.has_product("curated")
    run_stage(job, "student")
    counts = json.loads((job.stage_folder("student") / "data.json").read_text())
    assert counts["num_rows"] == 6
    # Six rows of nine are left: 3 + (0 - 3) * 6 / 9.
    objective = build_objective(job.resolved_stage("student"), max_steps=2, compute_dtype=None)
    assert [term.weight(step) for term in objective.terms for step in (0, 99)] == [1.0, 1.0]


def test_a_stage_that_drops_everything_may_be_mended_without_more_ado(recipe):
    steps = [{"kind": "length", "min_length": 99}]
    with pytest.raises(InputError, match=r"length drops all 9 rows \(too short: 9\)"):
        run_stage(Run(load(recipe(*steps))), "curated")
    job = Run(load(recipe(VERIFY)))
    assert read_stage(job.stage_folder("curated")) is None
    run_stage(job, "curated")
    assert job.has_product("curated")


COMMAND = {"kind": "verify_command", "command": ["python3", "-c", "pass"]}


def test_programs_of_the_recipe_run_only_where_that_is_allowed(recipe, tmp_path):
    loaded = load(recipe(VERIFY, COMMAND))
    with pytest.raises(InputError) as caught:
        run(loaded)
    assert str(caught.value) == (
        "stages.curated.steps.1.command: runs `python3 -c pass`; read what it does, and write "
        "--allow-code (allow_code=True in Python), or leave it out"
    )
    assert not (tmp_path / "run" / "stages").exists()


def test_the_command_line_passes_on_that_it_is_allowed(recipe, monkeypatch):
    from llmkd import pipeline
    from llmkd.cli import app

    path, asked = recipe(COMMAND, asked=ASKED), []
    for name in ("run", "generate_teacher_data"):
        monkeypatch.setattr(pipeline, name, lambda *_, **options: asked.append(options) or [])
    # So that nothing is looked over.
    (path.parent / "run").mkdir()
    for command in ("train", "generate-teacher-data"):
        for flags in ([], ["--allow-code"]):
            result = CliRunner().invoke(app, [command, str(path), *flags])
            assert result.exit_code == 0, result.output
    assert [options["allow_code"] for options in asked] == [False, True, False, True]


def test_check_says_so_and_how_many_rows_there_can_be(recipe, machine):
    path = recipe(COMMAND, {"kind": "duplicates", "match": "near"})
    recipe_, source = load_with_source(path)
    found = report(recipe_, source, machine)
    assert found.warnings == [
        "curated: runs `python3 -c pass`, and so needs `llmkd train --allow-code`"
    ]
    facts = found.stages["curated"].facts
    assert (facts["rows"].value, facts["rows"].exactness) == (9, "at most")
    assert facts["memory"].value == 9 * 3000


@pytest.fixture
def machine():
    """One with 8 GiB."""
    from llmkd.check.machine import Machine, Memory

    return Machine(Memory("main memory", 2**34, 2**33), [], "none", 2)


def test_check_counts_the_rows_of_all_sources_and_names_a_bad_one(recipe, machine, write_rows):
    other = write_rows(ROWS[:4], "other.jsonl")
    sources = [{"dataset_name": other, "num_examples": 3}, {"dataset_name": other}]
    path = recipe(data={"kind": "concatenation", "sources": sources})
    found = report(*load_with_source(path), machine)
    assert found.stages["curated"].facts["rows"].value == 7
    sources[1]["dataset_name"] = write_rows([], "empty.jsonl")
    path = recipe(data={"kind": "concatenation", "sources": sources})
    with pytest.raises(InputError, match=r"data.sources.1.dataset_name: .*the data set is empty"):
        report(*load_with_source(path), machine)


TEACHER = {"model_name_or_path": "org/teacher"}
PROMPTS = {"dataset_name": "stage:curated"}
ASKED = {"kind": "generate", "teacher": TEACHER, "data": PROMPTS}


def test_what_a_teacher_is_asked_needs_the_curation_before_it(recipe):
    loaded = load(recipe(asked=ASKED))
    assert needed_for(loaded, ["asked"]) == ["curated", "asked"]


def test_shares_do_not_reach_through_a_curation(recipe):
    first = ASKED | {"data": {"kind": "task", "num_examples": 9}}
    curated = {"kind": "curate", "data": {"dataset_name": "stage:first"}}
    second = ASKED | {"data": {"dataset_name": "stage:second_data"}}
    loaded = load(recipe(first=first, second_data=curated, second=second))
    with pytest.raises(InputError, match="stage second takes what stage first makes"):
        generate_teacher_data(loaded, share=(0, 2))


UNDECIDED = {"dataset_name": "stage:curated", "dataset_split": "undecided"}
VOTE = {"kind": "vote", "grader": "number"}
KEEPING = VOTE | {"undecided": "keep"}
KEPT = {"kind": "kept_fraction", "stage": "curated"}
TRAIN = {
    "kind": "train",
    "student": {"kind": "scratch", "config": SHAPE},
    "data": {"kind": "task", "num_examples": 9},
    "losses": [{"kind": "cross_entropy", "weight": KEPT}],
}


@pytest.mark.parametrize(
    ("steps", "stages", "message"),
    [
        ([{"kind": "select"}], {}, "steps.0.fraction: write either `fraction` or `pass_rate`"),
        (
            [{"kind": "select", "pass_rate": [0.5, 0.2]}],
            {},
            "steps.0.pass_rate: goes from 0.5 down to 0.2; write the lower rate first",
        ),
        (
            [VERIFY, {"kind": "select", "pass_rate": [0.2, 0.5]}],
            {},
            "steps.1.pass_rate: the `verify` before keeps right rows only, and writes no `is_right`",
        ),
        (
            [{"kind": "length", "min_length": 3, "max_length": 2}],
            {},
            "2 is less than min_length: 3",
        ),
        (
            [{"kind": "verify_command", "command": ["no-such-program"]}],
            {},
            "steps.0.command: there is no program no-such-program; write the path of one",
        ),
        ([KEEPING, KEEPING], {}, "steps.1.undecided: another vote before keeps them too"),
        (
            [{"kind": "extract", "grader": "number", "column": "completion"}],
            {},
            "steps.0.column: `completion` is the rows' own column; write another name",
        ),
        (
            [VOTE | {"answer_column": "prompt"}],
            {},
            "steps.0.answer_column: `prompt` is the rows' own column; write another name",
        ),
        ([{"kind": "contamination"}], {}, "steps.0.against: names nothing to look for"),
        (
            [VOTE],
            {"asked": ASKED | {"data": UNDECIDED}},
            "asked.data.dataset_split: stage:curated keeps no undecided prompts; write undecided: keep",
        ),
        ([], {"student": TRAIN}, "losses.0.weight.stage: curated is no stage; write stage:NAME"),
        (
            [{"kind": "vote", "grader": "number", "min_votse": 2}],
            {},
            "steps.0.min_votse: no such field; did you mean `min_votes`?",
        ),
        ([{"kind": "votes"}], {}, 'steps.0.kind: no such kind "votes"; did you mean `vote`?'),
    ],
)
def test_steps_that_do_not_fit_are_refused_with_what_to_write(recipe, steps, stages, message):
    with pytest.raises(InputError) as caught:
        load(recipe(*steps, **stages))
    assert message in str(caught.value)


CURATE = {"kind": "curate", "data": {"dataset_name": "stage:asked"}}
ASKED_SUMS = {"kind": "task", "num_examples": 9, "keep_columns": ["answer"]}


@pytest.mark.parametrize(
    ("keep", "steps", "message"),
    [
        (["answer"], [VERIFY], None),
        ([], [VERIFY], "steps.0.reference: the rows have no column `answer`, but prompt, messages, "
         "completion, number; write one of these, or keep_columns: [answer] in the data of the"),
        (["answer"], [VERIFY | {"reference": "gold"}], "no column `gold`, but prompt, messages"),
        (["answer"], [{"kind": "select", "pass_rate": [0.0, 0.5]}], "no column `is_right`"),
        (["answer"], [VERIFY | {"keep": "all"}, {"kind": "select", "pass_rate": [0.0, 0.5]}], None),
        ([], [VERIFY | {"grader": "multiple_choice", "reference": "prompt"}], "no column `choices`"),
        ([], [VOTE | {"answer_column": "voted"}, VERIFY | {"reference": "voted"}], None),
    ],
)  # fmt: skip
def test_columns_that_no_row_will_have_are_refused_before_a_teacher_is_asked(
    recipe, keep, steps, message
):
    asked = {"kind": "generate", "teacher": TEACHER, "data": ASKED_SUMS | {"keep_columns": keep}}
    first = {"kind": "curate", "data": ["stage:asked"]}
    second = {"kind": "curate", "data": "stage:first", "steps": steps}
    path = recipe(asked=asked, first=first, second=second)
    if message is None:
        load(path)
        return
    with pytest.raises(InputError) as caught:
        load(path)
    assert message in str(caught.value)


def test_what_is_undecided_is_asked_again(recipe, tiny_llama, tokenizer, tmp_path):
    tiny_llama(tokenizer).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    asking = {
        "kind": "generate",
        "teacher": {"model_name_or_path": str(tmp_path / "teacher")},
        "engine": {"kind": "transformers", "batch_size": 8},
        "generation": {"max_completion_length": 80, "num_samples": 2},
    }
    vote = {"kind": "vote", "grader": "exact_match", "min_votes": 2, "undecided": "keep"}
    stages = {
        "asked": asking | {"data": ASKED_SUMS},
        "voted": CURATE | {"steps": [vote]},
        "again": asking | {"data": {**UNDECIDED, "dataset_name": "stage:voted", "keep_columns": ["answer"]}},
        "all": {
            "kind": "curate",
            "data": {
                "kind": "concatenation",
                "sources": [{"dataset_name": "stage:voted"}, {"dataset_name": "stage:again"}],
            },
        },
        "student": student(str(tmp_path / "teacher"), 1.0) | {"data": {"dataset_name": "stage:all", "max_length": 32}},
    }  # fmt: skip
    job = Run(load(recipe(**stages)))
    tried = list(try_stages(job, told=lambda name: None))
    assert tried[-1].stand_ins == ["all"]
    assert tried[-1].batch is not None
    for name in ("asked", "voted", "again", "all"):
        run_stage(job, name)
    rows, prompts = (
        [json.loads(line) for line in (job.stage_folder(name) / file).read_text().splitlines()]
        for name, file in (("all", "data.jsonl"), ("voted", "undecided.jsonl"))
    )
    # A random teacher never says the same twice.
    assert len(prompts) > 4
    assert {row["prompt"] for row in rows} <= {row["prompt"] for row in prompts}
    assert all(
        sum(map(int, row["prompt"].strip("=").split("+"))) == int(row["answer"]) for row in rows
    )


def test_a_vote_that_keeps_the_undecided_may_be_asked_for_them(recipe):
    load(recipe(KEEPING, asked=ASKED | {"data": UNDECIDED}))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "data: input should be a mapping; got 3"),
        ([], "data: is empty; write at least one"),
        ({"kind": "mix"}, 'data.kind: no such kind "mix"; write one of dataset, concatenation'),
        (["stage:curated"], "data.0.dataset_name: stage:curated is this stage itself"),
        ([{"dataset_nam": "x"}], "data.0.dataset_nam: no such field; did you mean `dataset_name`?"),
    ],
)
def test_data_of_another_form_is_refused(recipe, data, message):
    content = yaml.safe_load(recipe(data="x.jsonl").read_text())
    content["stages"]["curated"]["data"] = data
    path = recipe()
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError) as caught:
        load(path)
    assert message in str(caught.value)


def test_a_name_a_mapping_and_a_list_of_names_are_all_data(recipe, write_rows):
    name = write_rows(ROWS)
    for data in (name, {"dataset_name": name}, [name, {"dataset_name": name}]):
        loaded = load(recipe(data=data))
        stage = loaded.stages["curated"]
        sources = stage.data if isinstance(stage.data, list) else [stage.data]
        assert [source.dataset_name for source in sources] == [name] * len(sources)


def test_memory_does_not_grow_with_the_rows(curate, write_rows):
    def peak(num_prompts):
        rows = (
            {
                "prompt": f"question {i}",
                "completion": f"answer {i % 7} {k}",
                "answer": "3",
                "number": i,
            }
            for i in range(num_prompts)
            for k in range(2)
        )
        path = write_rows(rows, f"{num_prompts}.jsonl")
        steps = [
            {"kind": "length"},
            {"kind": "repetition"},
            VERIFY | {"keep": "all"},
            {"kind": "select", "pass_rate": [0.0, 1.0]},
            {"kind": "vote", "grader": "number", "ties": "first"},
            {"kind": "select", "fraction": 0.1},
        ]
        tracemalloc.start()
        try:
            curate({"dataset_name": path}, *steps, name=f"stage-{num_prompts}", read_back=False)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(20)  # What is imported and compiled at first.
    # Held in memory, 900 rows more would be half a megabyte.
    assert peak(500) < peak(50) + 50_000
