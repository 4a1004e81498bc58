import pytest

from llmkd.errors import InputError
from llmkd.recipe import load

DATA = "{kind: classification, problem_type: regression, dataset_name: org/pairs}"
RECIPE = f"""\
name: r
stages:
  names:
    kind: train
    student: {{kind: scratch, config: {{model_type: bert}}}}
    data: {{kind: task, task: intents, num_examples: 9}}
    losses: [{{kind: cross_entropy}}]
  numbers:
    kind: train
    student: {{model_name_or_path: org/bert}}
    data: {DATA}
    losses: [{{kind: label_mse}}]
  student:
    kind: train
    student: {{model_name_or_path: org/small}}
    teacher: {{model_name_or_path: stage:numbers}}
    data: {DATA}
    losses: [{{kind: logit_mse}}, {{kind: label_mse}}]
  evaluation:
    kind: evaluate
    models: [stage:numbers, stage:student]
    suite: {{name: s, tasks: [{{kind: classification, name: t, data: {DATA}, metrics: [pearson]}}]}}
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path / "r.yaml"


def test_numbers_and_names_may_stand_in_one_recipe(path):
    assert load(path).stages["student"].data.problem_type == "regression"
    # A classifier may be the start of a regression: it gets another head.
    load(path, ["stages.student.student.model_name_or_path=stage:names"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "numbers.losses.0.kind=cross_entropy",
            "cross_entropy is of one of several labels, .* write l",
        ),
        (
            "student.losses.0.kind=forward_kl",
            "forward_kl compares probabilities, .* write logit_mse",
        ),
        ("student.losses.0.kind=sinkhorn", "sinkhorn compares probabilities"),
        ("student.losses.0.kind=nkd", "nkd compares probabilities"),
        (
            "names.losses.0.kind=label_mse",
            "label_mse is of labels that are numbers; write cross_ent",
        ),
        ("numbers.losses.0.kind=logit_mse", "the stage has none; write .*, or kind: label_mse"),
        (
            "student.losses=[{kind: label_mse}]",
            "no term of `losses` uses the teacher; .*: logit_mse}",
        ),
        ("numbers.data.labels=[a, b]", "a regression has no `labels` to name"),
        (
            "student.teacher.model_name_or_path=stage:names",
            "gives one of several labels, and a numb",
        ),
        ("evaluation.models.1=stage:names", "stage:names gives one of several labels"),
        (
            "evaluation.suite.tasks.0={kind: classification, name: t, data: {kind: task, task: intents, "
            "num_examples: 9}}",
            "models.0: stage:numbers gives a number, and one of several labels is needed here",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_write(path, override, message):
    with pytest.raises(InputError, match=message):
        load(path, [f"stages.{override}"])


def test_a_head_for_a_number_is_not_written_in_the_configuration(path):
    student = "{kind: scratch, config: {model_type: bert, problem_type: regression}}"
    with pytest.raises(InputError, match=r"config.problem_type.*: follows from the data; leave it"):
        load(path, [f"stages.names.student={student}"])
