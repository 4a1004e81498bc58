from pathlib import Path

import pytest

from llmkd.errors import InputError
from llmkd.recipe import load
from llmkd.recipe.schema import TrainStage

TEXTS = Path(__file__).parent / "texts"
ONE_STAGE = (TEXTS / "one_stage.yaml").read_text()
WHOLE = (TEXTS / "whole.yaml").read_text()

IN_STUDENT = "bad.yaml:28 stages.student.teacher"
NO_STAGE_BEFORE = "put a stage before this one that makes"


@pytest.fixture
def problems(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load_bad(text, *overrides):
        (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(InputError) as caught:
            load("bad.yaml", overrides)
        return caught.value.problems

    return load_bad


# An override of WHOLE, and what is said of it.
BAD_REFERENCES = [
    (
        "stages.student.teacher.model_name_or_path=stage:teachr",
        "no stage is called `teachr`; did you mean stage:teacher?",
    ),
    (
        "stages.student.teacher.model_name_or_path=stage:x",
        "no stage is called `x`; write one of stage:teacher",
    ),
    (
        "stages.student.teacher.model_name_or_path=stage:student",
        "stage:student is this stage itself; write one of stage:teacher",
    ),
    (
        "stages.student.teacher.model_name_or_path=stage:evaluation",
        "stage `evaluation` comes later, and stages run as written; move it up, or write one of "
        "stage:teacher",
    ),
    (
        "stages.student.teacher.model_name_or_path=stage:teacher_data",
        "stage `teacher_data` makes a data set, and a model is needed here; write one of "
        "stage:teacher",
    ),
    (
        "stages.student.student.model_name_or_path=stage:teacher_data",
        "stage `teacher_data` makes a data set, and a model is needed here; write one of "
        "stage:teacher",
    ),
    (
        "stages.student.data.dataset_name=stage:teacher",
        "stage `teacher` makes a model, and a data set is needed here; write one of "
        "stage:teacher_data",
    ),
    (
        "stages.teacher_data.teacher.model_name_or_path=stage:student",
        "stage `student` comes later, and stages run as written; move it up, or write one of "
        "stage:teacher",
    ),
    (
        "stages.teacher.student.tokenizer_name_or_path=stage:student",
        "stage `student` comes later, and stages run as written; move it up, or put a stage before "
        "this one that makes a tokenizer",
    ),
    (
        "stages.evaluation.models.1=stage:teacher_data",
        "stage `teacher_data` makes a data set, and a model is needed here; write one of "
        "stage:teacher, stage:student",
    ),
    (
        "stages.evaluation.suite.tasks.1.data.dataset_name=stage:teacher",
        "stage `teacher` makes a model, and a data set is needed here; write one of "
        "stage:teacher_data",
    ),
]


@pytest.mark.parametrize(("override", "message"), BAD_REFERENCES)
def test_a_reference_names_an_earlier_stage_with_the_right_product(problems, override, message):
    assert problems(WHOLE, override) == [f"override {override}: {message}"]


def test_a_divergence_needs_a_teacher(problems):
    assert problems(ONE_STAGE, "losses.0.kind=reverse_kl") == [
        "bad.yaml:6 losses.0: reverse_kl compares the student with a teacher, and the stage has "
        "none; write `teacher: {model_name_or_path: ...}`, or kind: cross_entropy"
    ]


def test_a_teacher_needs_a_divergence(problems):
    assert problems(ONE_STAGE + "teacher: {model_name_or_path: hub/a}\n") == [
        "bad.yaml:8 teacher: no term of `losses` uses the teacher; add a divergence to `losses`, "
        "such as {kind: forward_kl}, or leave out `teacher`"
    ]


BLIND = (
    "is blind to which example has which distribution: it is 0 where the student's are the teacher's "
    "in another order; put a term beside it that is not, such as {kind: forward_kl} or "
    "{kind: cross_entropy}, with a weight above 0"
)


@pytest.mark.parametrize("kind", ["sinkhorn", "sinkhorn_paper"])
def test_a_sinkhorn_term_needs_a_pointwise_term_of_some_weight_beside_it(problems, kind):
    with_teacher = ONE_STAGE + "teacher: {model_name_or_path: hub/a}\n"
    assert problems(with_teacher, f"losses.0.kind={kind}") == [
        f"bad.yaml:6 losses.0: {kind} {BLIND}"
    ]
    two = f"losses=[{{kind: {kind}}}, {{kind: forward_kl, weight: 0}}]"
    assert problems(with_teacher, two) == [f"override {two} losses.0: {kind} {BLIND}"]
    # Two of them see no more than one.
    both = "losses=[{kind: sinkhorn}, {kind: sinkhorn_paper}]"
    assert len(problems(with_teacher, both)) == 2


@pytest.mark.parametrize("beside", ["cross_entropy", "forward_kl", "reverse_kl", "jsd"])
def test_a_sinkhorn_term_goes_with_any_pointwise_term(beside, tmp_path):
    path = tmp_path / "good.yaml"
    path.write_text(ONE_STAGE + "teacher: {model_name_or_path: hub/a}\n", encoding="utf-8")
    recipe = load(path, [f"losses=[{{kind: sinkhorn}}, {{kind: {beside}}}]"])
    stage = next(iter(recipe.stages.values()))
    assert isinstance(stage, TrainStage)
    assert [term.kind for term in stage.losses] == ["sinkhorn", beside]


def test_a_sinkhorn_term_needs_a_teacher(problems):
    found = problems(ONE_STAGE, "losses=[{kind: sinkhorn}, {kind: cross_entropy}]")
    assert len(found) == 1
    assert "sinkhorn compares the student with a teacher, and the stage has none" in found[0]


def test_a_sinkhorn_term_is_reason_enough_for_a_teacher(tmp_path):
    path = tmp_path / "good.yaml"
    path.write_text(ONE_STAGE + "teacher: {model_name_or_path: hub/a}\n", encoding="utf-8")
    load(path, ["losses=[{kind: sinkhorn}, {kind: cross_entropy}]"])


def test_two_terms_of_one_name_are_refused(problems):
    text = ONE_STAGE.replace(
        "  - {kind: cross_entropy}", "  - {kind: cross_entropy}\n  - {kind: cross_entropy}"
    )

    assert problems(text) == [
        "bad.yaml:7 losses.1: is called `cross_entropy`, as losses.0 is; give one of them another "
        "`name`"
    ]


@pytest.mark.parametrize("weight", ["0", "0.0", "{kind: linear, start: 0, end: 0}"])
def test_weights_that_are_all_zero_are_refused(problems, weight):
    assert problems(ONE_STAGE.replace("entropy}", f"entropy, weight: {weight}}}")) == [
        "bad.yaml:5 losses: every term has weight 0, so nothing would be learned; give one a weight"
    ]


def test_a_weight_that_grows_from_zero_is_fine(tmp_path):
    path = tmp_path / "one.yaml"
    weight = "{kind: linear, start: 0, end: 1}"
    path.write_text(ONE_STAGE.replace("entropy}", f"entropy, weight: {weight}}}"))

    load(path)


@pytest.mark.parametrize(
    ("config", "was"), [("{hidden_size: 64}", "missing"), ("{model_type: 3}", "not text")]
)
def test_a_student_from_scratch_needs_a_model_type(problems, config, was):
    found = problems(ONE_STAGE.replace("{model_type: llama, hidden_size: 64}", config))

    assert found == [
        f"bad.yaml:3 student.config.model_type: {was}; write the architecture, e.g. "
        "model_type: llama"
    ]


def test_a_student_from_scratch_needs_a_tokenizer_for_a_data_set(problems):
    assert problems(ONE_STAGE, "data={dataset_name: hub/data}") == [
        "bad.yaml:3 student: a student from scratch takes its tokenizer from the teacher or the "
        "task, and there is neither; write `tokenizer_name_or_path` in `student`, or a `teacher`"
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "./dta.jsonl",
            "./dta.jsonl does not exist; did you mean `data.jsonl`?",
        ),
        (
            "dta.jsonl",
            "dta.jsonl does not exist; did you mean `data.jsonl`?",
        ),
        (
            "sub/x.parquet",
            "sub/x.parquet does not exist, nor does its folder; the path leads as far as .",
        ),
        (
            "~no-such-user/x",
            "~no-such-user/x does not exist, nor does its folder; the path leads as far as .",
        ),
        (
            "../nosuch-folder",
            "../nosuch-folder does not exist; write a path that does (paths start at the current "
            "folder)",
        ),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(problems, tmp_path, value, message):
    (tmp_path / "data.jsonl").touch()
    override = f"data={{dataset_name: {value}}}"

    found = problems(ONE_STAGE, override, "student={model_name_or_path: hub/a}")

    assert found == [f"override {override} data.dataset_name: {message}"]


def test_paths_that_exist_and_hub_names_are_fine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data.jsonl").touch()
    (tmp_path / "one.yaml").write_text(ONE_STAGE)

    for name in ("./data.jsonl", "data.jsonl", "~/data.jsonl", str(tmp_path), "hub/data"):
        load("one.yaml", [f"data={{dataset_name: {name}}}", "student={model_name_or_path: hub/a}"])


def test_stages_that_hold_are_checked_beside_those_that_do_not(problems):
    found = problems(
        WHOLE, "stages.teacher.seeds=1", "stages.student.data.dataset_name=stage:teacher"
    )

    assert len(found) == 2


def test_results_of_one_name_are_refused(problems):
    twice = "stages.evaluation.models=[stage:teacher, stage:student, stage:teacher]"
    assert problems(WHOLE, twice)[0].endswith(
        "stages.evaluation.models.2: stage:teacher is model 0 too; leave one out, or name another"
    )
    task = "{kind: exact_match, name: sums, data: {kind: task, num_examples: 5}}"
    tasks = f"stages.evaluation.suite={{name: s, tasks: [{task}, {task}]}}"
    assert "suite.tasks.1: sums is task 0 too" in problems(WHOLE, tasks)[0]


def test_a_stream_has_to_be_told_its_steps_and_shuffles_itself(problems):
    data = "stages.student.data={dataset_name: some/rows, streaming: true}"
    found = problems(
        WHOLE, data, "stages.student.trainer={train_sampling_strategy: group_by_length}"
    )
    assert "data.streaming: a stream has no known length; write trainer.max_steps" in found[0]
    assert "train_sampling_strategy: a stream is shuffled as it comes; leave it out" in found[1]


def test_a_stream_is_read_by_no_workers_and_has_no_number_of_rows(problems):
    mixture = "{kind: mixture, streaming: true, num_examples: 5, sources: [SOURCE, SOURCE]}"
    data = "stages.student.data=" + mixture.replace("SOURCE", "{dataset_name: some/rows}")
    found = problems(
        WHOLE, data, "stages.student.trainer={max_steps: 1, dataloader_num_workers: 2}"
    )

    assert "data.num_examples: a stream draws from its sources by weight" in found[0]
    assert "each worker would read the whole stream; write 0, or" in found[1]


def test_results_of_two_stages_that_could_not_be_told_apart_are_refused(problems, tmp_path):
    task = "{kind: exact_match, name: sums, data: {kind: task, num_examples: 5}}"
    stage = f"{{kind: evaluate, models: [hub/other], suite: {{name: mine, tasks: [{task}]}}}}"
    message = (
        "stages.again.suite: stage `evaluation` measures task sums of a suite mine for hub/other"
    )
    assert message in problems(WHOLE, f"stages.again={stage}")[0]

    (tmp_path / "mine.yaml").write_text(f"name: mine\ntasks: [{task}]\n")
    of_file = "stages.again={kind: evaluate, models: [hub/other], suite: mine.yaml}"
    assert message in problems(WHOLE, of_file)[0]


def test_a_deepspeed_file_has_to_be_there(problems):
    found = problems(ONE_STAGE, "trainer.deepspeed=zero")
    assert "zero does not exist; write a path that does" in found[0]


def test_a_name_with_two_slashes_is_no_hub_name(problems):
    found = problems(
        ONE_STAGE, "data={dataset_name: a/b/missing}", "student={model_name_or_path: a/b}"
    )
    assert "data.dataset_name: a/b/missing does not exist" in found[0]


def test_a_misspelt_key_does_not_hide_what_else_is_wrong_with_its_stage(problems):
    found = problems(
        ONE_STAGE,
        "losses.0.wieght=1",
        "losses.0.kind=forward_kl",
        "data={dataset_name: ./missing.jsonl, max_len: 3}",
        "student={model_name_or_path: hub/a}",
    )

    assert len(found) == 4
    assert any("./missing.jsonl does not exist" in problem for problem in found)
    assert any("compares the student with a teacher" in problem for problem in found)
