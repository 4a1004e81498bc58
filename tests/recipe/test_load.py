import subprocess
import sys
from pathlib import Path

import pytest

from llmkd.errors import InputError
from llmkd.recipe import Recipe, load, load_part
from llmkd.recipe.evaluation import Suite
from llmkd.recipe.losses import CosineSchedule
from llmkd.recipe.models import ScratchStudent
from llmkd.recipe.schema import TrainStage
from llmkd.run_plan import Run

TEXTS = Path(__file__).parent / "texts"
ONE_STAGE = (TEXTS / "one_stage.yaml").read_text()
WHOLE = (TEXTS / "whole.yaml").read_text()


@pytest.fixture
def problems(tmp_path, monkeypatch):
    """Loads a text as bad.yaml, in an otherwise empty folder, and gives back what was wrong."""
    monkeypatch.chdir(tmp_path)

    def load_bad(text, *overrides):
        (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(InputError) as caught:
            load("bad.yaml", overrides)
        return caught.value.problems

    return load_bad


def test_a_whole_recipe_is_read(tmp_path):
    path = tmp_path / "whole.yaml"
    path.write_text(WHOLE)

    recipe = load(path)

    assert isinstance(recipe, Recipe)
    assert list(recipe.stages) == ["teacher", "teacher_data", "student", "evaluation"]
    student = recipe.stages["student"]
    assert isinstance(student, TrainStage)
    assert student.losses[0].weight == CosineSchedule(
        kind="cosine", start=1.0, end=0.1, num_steps=5
    )
    assert student.losses[2].weight == 0.1


def test_a_single_stage_may_stand_at_the_top(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(ONE_STAGE)

    recipe = load(path, ["trainer.max_steps=20", "seed=5"])

    assert list(recipe.stages) == ["train"]
    assert recipe.seed == 5
    stage = recipe.stages["train"]
    assert isinstance(stage, TrainStage)
    assert isinstance(stage.student, ScratchStudent)
    assert stage.trainer == {"max_steps": 20, "learning_rate": 3e-3}


KINDS = (
    "cross_entropy, label_mse, forward_kl, reverse_kl, jsd, skew_forward_kl, skew_reverse_kl, "
    "total_variation, adaptive_kl, todi, nkd, logit_mse, sinkhorn, sinkhorn_paper"
)

# Each edit of ONE_STAGE, and what is said of it.
BAD_LINES = [
    (
        ("{kind: cross_entropy}", "{kind: cross_entropy, wieght: 1}"),
        "6 losses.0.wieght: no such field; did you mean `weight`?",
    ),
    (
        ("{kind: cross_entropy}", "{kind: cross_entropy, temperature: 1}"),
        "6 losses.0.temperature: no such field; the fields here are weight, name, part, kind",
    ),
    (
        ("{kind: cross_entropy}", "{kind: reverse_lk}"),
        '6 losses.0.kind: no such kind "reverse_lk"; did you mean `reverse_kl`? (there are '
        f"{KINDS})",
    ),
    (
        ("{kind: cross_entropy}", "{weight: 1}"),
        f"6 losses.0.kind: missing; write one of {KINDS}",
    ),
    (
        ("{kind: cross_entropy}", "{kind: cross_entropy, weight: -1}"),
        "6 losses.0.weight: input should be greater than or equal to 0; got -1",
    ),
    (
        ("{kind: cross_entropy}", "{kind: cross_entropy, weight: .inf}"),
        "6 losses.0.weight: input should be a finite number; got .inf",
    ),
    (
        ("{kind: cross_entropy}", "{kind: cross_entropy, weight: {kind: linear, start: 1}}"),
        "6 losses.0.weight.end: missing; write `end: ...` (Weight from step `num_steps` on)",
    ),
    (
        ("{kind: cross_entropy}", "{kind: cross_entropy, weight: {kind: lin, start: 1}}"),
        '6 losses.0.weight.kind: no such kind "lin"; did you mean `linear`? (there are linear, '
        "cosine, kept_fraction)",
    ),
    (
        ("{kind: cross_entropy}", "{kind: cross_entropy, weight: {start: 1, end: 0}}"),
        "6 losses.0.weight.kind: missing; write one of linear, cosine, kept_fraction",
    ),
    (
        ("{kind: cross_entropy}", '{kind: cross_entropy, weight: "1"}'),
        '6 losses.0.weight: input should be a number; got "1" in quotes; write 1',
    ),
    (
        ("{kind: cross_entropy}", "cross_entropy"),
        '6 losses.0: input should be a mapping; got "cross_entropy"',
    ),
    (
        ("num_examples: 100", "num_examples: 1e2"),
        "4 data.num_examples: input should be an integer; got 100.0; write 100",
    ),
    (
        ("num_examples: 100", "num_samples: 100, num_examples: on"),
        '4 data.num_examples: input should be an integer; got "on"',
    ),
    (
        ("task: addition, ", "task: add, "),
        '4 data.task: no such task "add"; write one of addition, intents, named_intents',
    ),
    (
        ("data: {kind: task,", "data: {kind: tsak,"),
        '4 data.kind: no such kind "tsak"; did you mean `task`? '
        "(there are task, classification, dataset, mixture, store)",
    ),
    (("name: one", "name: 1"), '1 name: input should be text; got 1; write it in quotes: "1"'),
    (
        ("name: one", "name: a/b"),
        '1 name: input should match ^[A-Za-z0-9][A-Za-z0-9._-]*$; got "a/b"',
    ),
    (
        ("name: one", "teacher: {model_name_or_path: org/m, revison: a}\nname: one"),
        "1 teacher.revison: no such field; did you mean `revision`?",
    ),
    (("name: one", "sede: 1\nname: one"), "1 sede: no such field; did you mean `seed`?"),
    (
        ("name: one", "base_model: x\nname: one"),
        "1 base_model: no such field; llmkd calls it `student.model_name_or_path`",
    ),
    (
        ("name: one", "micro_batch_size: 1\nname: one"),
        "1 micro_batch_size: no such field; llmkd calls it `trainer.per_device_train_batch_size`",
    ),
    (
        ("name: one", "cutoff_len: 1\nname: one"),
        "1 cutoff_len: no such field; llmkd calls it `data.max_length`",
    ),
    (
        ("name: one", "learning_rate: 1\nname: one"),
        "1 learning_rate: no such field here; write it as `trainer.learning_rate`",
    ),
    (
        ("name: one", "temperature: 1\nname: one"),
        "1 temperature: no such field here; write it as `losses.N.temperature`",
    ),
    (
        ("name: one", "lora_r: 1\nname: one"),
        "1 lora_r: no such field; llmkd calls it `student.lora.r`",
    ),
    (
        ("kind: train\n", ""),
        "1 kind: missing; write one of train, kdrl, task_rows, generate, score, curate, prune, merge, evaluate",
    ),
    (
        ("kind: train\n", "knd: train\n"),
        "1 kind: missing; write `kind` instead of `knd`",
    ),
    (
        ("kind: train\n", "kind: trian\n"),
        '2 kind: no such kind "trian"; did you mean `train`? '
        "(there are train, kdrl, task_rows, generate, score, curate, prune, merge, evaluate)",
    ),
    (
        ("max_steps: 10", "max_step: 10"),
        "7 trainer.max_step: no such training argument; did you mean `max_steps`?",
    ),
    (
        ("trainer: {max_steps: 10, learning_rate: 3e-3}", "trainer: 3"),
        "7 trainer: input should be a mapping; got 3",
    ),
    (
        ("{kind: scratch, config: {model_type: llama, hidden_size: 64}}", "hub/model"),
        '3 student: input should be a mapping; got "hub/model"; write '
        "{model_name_or_path: hub/model}",
    ),
    (
        (
            "{kind: scratch, config: {model_type: llama, hidden_size: 64}}",
            "{model_name_or_path: ''}",
        ),
        "3 student.model_name_or_path: is empty; write some text",
    ),
    (
        ("losses:\n  - {kind: cross_entropy}", "losses: []"),
        "5 losses: is empty; write at least one",
    ),
    (
        ("losses:\n  - {kind: cross_entropy}", "losses: cross_entropy"),
        '5 losses: input should be a list; got "cross_entropy"; write [cross_entropy]',
    ),
]


@pytest.mark.parametrize(("edit", "message"), BAD_LINES)
def test_a_bad_line_is_named_with_what_to_write(problems, edit, message):
    assert edit[0] in ONE_STAGE

    found = problems(ONE_STAGE.replace(*edit, 1))

    assert f"bad.yaml:{message}" in found


def test_all_problems_come_at_once_sorted_by_line_and_aligned(problems):
    text = (
        ONE_STAGE.replace("{kind: cross_entropy}", "{kind: forward_kl, temprature: 1}\n\n\n")
        .replace("3e-3", "-1")
        .replace("digits", "digts")
    )

    assert problems(text, "losses.0.weight=-1", "resume=3") == [
        "bad.yaml:4  data.digts: no such field; did you mean `digits`?",
        "bad.yaml:6  losses.0.temprature: no such field; did you mean `temperature`?",
        "bad.yaml:10 trainer.learning_rate: input should be greater than 0; got -1",
        "override losses.0.weight=-1: input should be greater than or equal to 0; got -1",
        'override resume=3: input should be text; got 3; write it in quotes: "3"',
    ]


def test_a_problem_inside_an_overriding_value_names_the_override_and_its_key(problems):
    assert problems(ONE_STAGE, "losses=[{kind: jsd, teacher_weight: 2}]") == [
        "override losses=[{kind: jsd, teacher_weight: 2}] losses.0.teacher_weight: input should be "
        "less than 1; got 2"
    ]


def test_the_last_of_several_overrides_is_named(problems):
    overrides = ["losses=[{kind: cross_entropy, weight: -1}]", "losses.0.weight=-2"]

    assert problems(ONE_STAGE, *overrides) == [
        "override losses.0.weight=-2: input should be greater than or equal to 0; got -2"
    ]


def test_problems_of_different_checks_are_sorted_together(problems):
    text = WHOLE.replace("bf16: true", "bf16: 3").replace("hub/other]", "./nosuch]")

    assert [problem.split()[1] for problem in problems(text.replace("r: 8", "r: 0"))] == [
        "stages.teacher.trainer.bf16:",
        "stages.student.student.lora.r:",
        "stages.evaluation.models.2:",
    ]


def test_stages_are_named_where_they_are_written_out(problems):
    found = problems(WHOLE.replace("r: 8", "r: 0").replace("join_rows: true", "join_rows: yes"))

    assert found == [
        "bad.yaml:27 stages.student.student.lora.r: input should be greater than 0; got 0",
        "bad.yaml:45 stages.evaluation.suite.tasks.1.join_rows: input should be true or false; got "
        '"yes"; write true',
    ]


@pytest.mark.parametrize(
    ("target_modules", "message"),
    [
        ("3", ": input should be `all-linear` or a list; got 3"),
        ("[3]", '.0: input should be text; got 3; write it in quotes: "3"'),
    ],
)
def test_a_choice_of_types_gives_one_problem(problems, target_modules, message):
    found = problems(WHOLE.replace("[q_proj, v_proj]", target_modules))

    assert found == [f"bad.yaml:27 stages.student.student.lora.target_modules{message}"]


def test_a_recipe_without_stages_is_told_so(problems):
    assert problems("name: a\n") == [
        "bad.yaml:1 stages: missing; write `stages: ...` (Stage name to stage)"
    ]


def test_misspelled_stages_are_not_taken_for_a_single_stage(problems):
    assert "bad.yaml:4 stagse: no such field; did you mean `stages`?" in problems(
        WHOLE.replace("stages:", "stagse:", 1)
    )


def test_a_stage_key_beside_stages_is_refused(problems):
    found = problems("losses: []\n" + WHOLE)

    assert found == ["bad.yaml:1 losses: no such field here; write it as `stages.NAME.losses`"]


def test_overrides_of_a_single_stage_take_no_prefix(problems):
    assert problems(ONE_STAGE, "stages.train.resume=never") == [
        "override stages.train.resume=never: this recipe's one stage stands at its top; leave out "
        "`stages.NAME.`"
    ]


def test_a_suite_file_is_checked_with_the_recipe(problems, tmp_path):
    (tmp_path / "suite.yaml").write_text("name: a\ntasks:\n  - {kind: exact_match, nme: b}\n")

    found = problems("name: a\nkind: evaluate\nmodels: [hub/a]\nsuite: suite.yaml\n")

    assert found == [
        "suite.yaml:3 tasks.0.name: missing; write `name: ...` (What results call the task)",
        "suite.yaml:3 tasks.0.data: missing; write `data: ...` (The sums to ask; take a split that no "
        "training saw)",
        "suite.yaml:3 tasks.0.nme: no such field; did you mean `name`?",
    ]


def test_an_unknown_suite_is_a_problem_of_the_recipe(problems):
    found = problems("name: a\nkind: evaluate\nmodels: [hub/a]\nsuite: nosuch.yaml\n")

    assert found[0].startswith("bad.yaml:4 suite: nosuch.yaml: no such file or shipped suite; ")


def test_a_part_is_read_from_a_file_of_its_own(tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text(
        "name: a\ntasks:\n- {kind: exact_match, name: b, data: {kind: task, num_examples: 2}}\n"
    )

    assert load_part(path, Suite).tasks[0].name == "b"


def test_a_part_with_a_path_to_nowhere_is_refused(tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text(
        "name: a\ntasks:\n- kind: perplexity\n  name: b\n  data: {dataset_name: ./nosuch.txt}\n"
    )

    with pytest.raises(InputError) as caught:
        load_part(path, Suite)
    assert caught.value.problems == [
        f"{path}:5 tasks.0.data.dataset_name: ./nosuch.txt does not exist; write a path that does "
        "(paths start at the current folder)"
    ]


def test_loading_imports_neither_torch_nor_transformers(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(ONE_STAGE)
    code = (
        "import sys; from llmkd.recipe import load; load(sys.argv[1]);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'numpy')))"
    )

    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == 0


def test_an_output_folder_of_an_unknown_user_is_taken_as_written(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(ONE_STAGE)

    assert Run(load(path, ["output_dir=~no-such-user/x"])).folder == Path("~no-such-user/x")
