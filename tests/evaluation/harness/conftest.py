import json

import pytest
import yaml

from llmkd.evaluation.measured import Setting
from llmkd.evaluation.subject import subject_at
from llmkd.models.load import load_model
from llmkd.recipe.harness import LMEvalTask

# Two letters to choose from, so that a random model is sometimes right.
CHOICE = {
    "output_type": "multiple_choice",
    "dataset_path": "none",
    "test_split": "test",
    "doc_to_text": "{{sum}}=",
    "doc_to_target": "{{label}}",
    "doc_to_choice": ["1", "2", "3"],
    "target_delimiter": "",
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "brier_score", "aggregation": "brier_score", "higher_is_better": False},
    ],
}
WRITTEN = {
    "output_type": "generate_until",
    "dataset_path": "none",
    "test_split": "test",
    "doc_to_text": "{{sum}}=",
    "doc_to_target": "{{answer}}",
    "target_delimiter": "",
    "generation_kwargs": {"until": ["#"], "do_sample": False, "max_gen_toks": 6},
    "metric_list": [
        {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True},
    ],
}
TEXT = {
    "output_type": "loglikelihood_rolling",
    "dataset_path": "none",
    "test_split": "test",
    "doc_to_text": "",
    "doc_to_target": "{{sum}}",
    "metric_list": [
        {"metric": name, "aggregation": how, "higher_is_better": False}
        for name, how in [
            ("byte_perplexity", "weighted_perplexity"),
            ("bits_per_byte", "bits_per_byte"),
        ]
    ],
}


@pytest.fixture
def write_rows(tmp_path):
    """Writes rows as JSONL and returns the path."""

    def write(rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture
def sums(write_rows):
    """A file of 24 sums of different lengths."""
    return write_rows(
        [{"sum": f"{7 * i}+{i**3}", "answer": str(7 * i + i**3), "label": i % 3} for i in range(24)]
    )


@pytest.fixture
def make_task(sums):
    """Makes a task of a definition, on the sums unless other rows are named."""

    def make(definition, *, data=None, **settings):
        content = {
            "kind": "lm_eval",
            "name": "sums",
            "definition": definition,
            "data": {"dataset_name": sums, **(data or {})},
            **settings,
        }
        return LMEvalTask.model_validate(content)

    return make


@pytest.fixture
def subject(tiny_llama, tokenizer, tmp_path):
    """A tiny random model in a folder."""
    folder = tmp_path / "model"
    tiny_llama(tokenizer, hidden_size=16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return subject_at("tiny", str(folder), load_model)


@pytest.fixture
def setting(subject):
    """How a task is done, with a batch size that cuts 24 rows several times."""

    def make(**settings):
        return Setting(subject, **{"batch_size": 5, "seed": 3, "progress": ignore, **settings})

    return make


def ignore(done, total):
    pass


def write_yaml(path, content):
    path.write_text(yaml.safe_dump(content))
    return str(path)
