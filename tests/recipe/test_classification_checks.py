import pytest

from llmkd.errors import InputError
from llmkd.recipe import load

RECIPE = """\
name: r
stages:
  classifier:
    kind: train
    student: {kind: scratch, config: {model_type: bert}}
    data: {kind: task, task: intents, num_examples: 9}
    losses: [{kind: cross_entropy}]
  writer:
    kind: train
    student: {kind: scratch, config: {model_type: llama}}
    data: {kind: task, num_examples: 9}
    losses: [{kind: cross_entropy}]
  answers:
    kind: generate
    teacher: {model_name_or_path: stage:writer}
    data: {kind: task, num_examples: 9}
  student:
    kind: train
    student: {kind: scratch, config: {model_type: bert}}
    teacher: {model_name_or_path: stage:classifier}
    data: {kind: task, task: intents, num_examples: 9}
    losses: [{kind: forward_kl}]
  evaluation:
    kind: evaluate
    models: [stage:classifier, stage:student]
    suite: {name: s, tasks: [{kind: classification, name: t, data: {kind: task, task: intents, num_examples: 9}}]}
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path / "r.yaml"


def test_classifiers_and_language_models_may_stand_in_one_recipe(path):
    assert load(path).stages["student"].data.task == "intents"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.answers.teacher.model_name_or_path=stage:classifier", "writes no text, and a lang"),
        ("stages.student.teacher.model_name_or_path=stage:writer", "stage:writer makes a language m"),
        ("stages.evaluation.models.1=stage:writer", "a classifier is needed here"),
        ("stages.evaluation.suite=procedural", "models.0: stage:classifier makes a classifier"),
        ("stages.student.data={kind: task, num_examples: 9}", "writes no text"),
        (
            "stages.evaluation.suite.tasks=[{kind: classification, name: t, data: {dataset_name: org/x, "
            "kind: classification}}, {kind: perplexity, name: p, data: {dataset_name: org/y}}]",
            r"tasks.1: perplexity is for language models, .* write two suites",
        ),
        ("stages.student.student.config.num_labels=3", "num_labels=3: follows from the data; leave"),
        ("stages.classifier.data={kind: classification, dataset_name: org/x}", "takes its tokenizer"),
        (
            "stages.student.data={kind: classification, dataset_name: stage:answers}",
            "data.dataset_name: stage:answers makes prompts and completions",
        ),
        (
            "stages.evaluation.suite.tasks.0.data={kind: classification, dataset_name: stage:answers}",
            "tasks.0.data.dataset_name: stage:answers makes prompts and completions",
        ),
        ("stages.classifier.data.labels=[a]", "no such field"),
        ("stages.classifier.data={kind: classification, dataset_name: org/x, labels: [a]}", "at leas"),
        ("stages.answers.data={kind: task, task: intents, num_examples: 9}", "did you mean `named_intents`"),
    ],
)  # fmt: skip
def test_the_wrong_kind_of_model_or_data_is_refused(path, override, message):
    with pytest.raises(InputError, match=message):
        load(path, [override])


def test_a_language_model_may_become_a_classifier_and_not_the_other_way_round(path):
    recipe = load(path, ["stages.student.student={model_name_or_path: stage:writer}"])
    assert recipe.stages["student"].student.model_name_or_path == "stage:writer"
    with pytest.raises(InputError, match=r"writer.student.model_name_or_path: .* writes no text"):
        load(path, ["stages.writer.student={model_name_or_path: stage:classifier}"])


def test_an_override_may_replace_the_data_by_another_kind(path):
    data = "{kind: classification, dataset_name: org/x, columns: {text: sentence}, max_length: 64}"
    recipe = load(path, [f"stages.student.data={data}"])
    assert recipe.stages["student"].data.columns == {"text": "sentence"}
    assert recipe.stages["student"].data.max_length == 64
