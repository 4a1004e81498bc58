"""Models on this machine of a kind that a stage cannot take, held against what loading says."""

import json
import re

import pytest
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from llmkd.errors import InputError
from llmkd.models.classifiers import head_config, load_classifier
from llmkd.models.load import load_model
from llmkd.recipe.models import PretrainedModel

SHAPE = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "vocab_size": 18,
}  # fmt: skip
CLASSIFICATION = [
    "data={kind: classification, dataset_name: ROWS}",
    "losses=[{kind: forward_kl}]",
]
EVALUATION = """\
name: e
kind: evaluate
models: [MODEL]
suite: {name: s, tasks: [TASK]}
"""
CLASSIFICATION_TASK = (
    "{kind: classification, name: t, data: {kind: classification, dataset_name: ROWS}}"
)
PERPLEXITY = "{kind: perplexity, name: t, data: {dataset_name: TEXTS}}"


def save_classifier(folder):
    config = AutoConfig.for_model(**SHAPE, **head_config(["x", "y"]))
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "1", "label": "x"}\n{"text": "2", "label": "y"}\n')
    return str(path)


def test_a_classifier_that_is_to_write_is_refused_as_when_loading(local, checked):
    save_classifier(local / "teacher")
    with pytest.raises(InputError) as loading:
        load_model(PretrainedModel(model_name_or_path=str(local / "teacher")))
    with pytest.raises(InputError) as caught:
        checked(local / "local.yaml")
    assert caught.value.problems == [f"{local}/local.yaml:4 teacher: {loading.value}"]
    generate = (
        "name: g\nkind: generate\nteacher: {model_name_or_path: MODEL}\ndata: {dataset_name: D}"
    )
    text = generate.replace("MODEL", str(local / "teacher")).replace("D}", f"{local}/data.jsonl}}")
    (local / "g.yaml").write_text(text)
    with pytest.raises(InputError, match=r"g.yaml:3 teacher: .* is a classifier, which writes no"):
        checked(local / "g.yaml")


def test_a_classifiers_teacher_has_a_trained_head(local, checked, rows):
    overrides = [text.replace("ROWS", rows) for text in CLASSIFICATION]
    save_classifier(local / "teacher")
    # A language model may become a classifier, so the student needs none.
    checked(local / "local.yaml", *overrides)
    AutoModel.from_config(AutoConfig.for_model(**SHAPE)).save_pretrained(local / "teacher")
    source = PretrainedModel(model_name_or_path=str(local / "teacher"))
    with pytest.raises(InputError, match="is no trained classifier"):
        load_classifier(source)
    with pytest.raises(InputError, match=r"local.yaml:4 teacher: .* is no classifier"):
        checked(local / "local.yaml", *overrides)


def test_what_is_measured_has_the_head_that_the_task_asks_for(local, checked, rows):
    def check(model, task):
        text = EVALUATION.replace("MODEL", str(local / model)).replace("TASK", task)
        text = text.replace("ROWS", rows).replace("TEXTS", str(local / "data.jsonl"))
        (local / "e.yaml").write_text(text)
        return checked(local / "e.yaml")

    save_classifier(local / "teacher")
    check("teacher", CLASSIFICATION_TASK)
    check("student", PERPLEXITY)
    with pytest.raises(InputError, match=r"e.yaml:3 models.0: .*student: is no classifier"):
        check("student", CLASSIFICATION_TASK)
    with pytest.raises(InputError, match=r"e.yaml:3 models.0: .*teacher: is a classifier, which"):
        check("teacher", PERPLEXITY)


@pytest.fixture
def paired(local, tokenizer, tiny_seq2seq):
    """The folder of `local` with two seq2seq models, whose decoders' first tokens can be set."""

    def make(kind, **starts):
        for role in ("student", "teacher"):
            tiny_seq2seq(tokenizer, kind).save_pretrained(local / role)
            path = local / role / "config.json"
            config = json.loads(path.read_text())
            if role in starts:
                config["decoder_start_token_id"] = starts[role]
            if config["decoder_start_token_id"] is None:
                del config["decoder_start_token_id"]
            path.write_text(json.dumps(config))
        return local / "local.yaml"

    return make


def test_decoders_that_begin_with_different_tokens_are_refused(paired, checked):
    message = r"local.yaml:4 teacher: the student's decoder begins with token 0, the teacher's .* 3"
    with pytest.raises(InputError, match=message):
        checked(paired("t5", teacher=3, student=0))
    checked(paired("t5", teacher=3, student=3))


def test_a_decoder_that_has_nothing_to_begin_with_is_refused(paired, checked):
    with pytest.raises(
        InputError, match=re.escape("student: student: the configuration of this t5")
    ):
        checked(paired("t5", student=None))
    # BART's own default stands where a file says nothing.
    default = AutoConfig.for_model("bart").decoder_start_token_id
    checked(paired("bart", student=None, teacher=default))
