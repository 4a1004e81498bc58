import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from llmkd.data.words import vocabulary_of, word_tokenizer
from llmkd.errors import InputError
from llmkd.evaluation.evaluate import evaluate
from llmkd.evaluation.ood import confidences, rows_of
from llmkd.evaluation.suites import find_suite, with_data, with_tasks
from llmkd.models.classifiers import head_config
from llmkd.recipe.evaluation import Suite
from llmkd.recipe.load import checked_part

IN = ["wet wet", "warm warm", "loud loud", "wet", "loud"]
OUT = ["cold", "cold cold", "warm cold loud"]


def write_rows(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def suite_of(**task):
    data = {"kind": "task", "task": "intents", "num_examples": 5}
    content = {"kind": "ood", "name": "weather", "data": data, **task}
    return checked_part({"name": "s", "tasks": [content]}, Suite, "suite")


def measured(suite, model, folder=None):
    found = evaluate(
        [("m", str(model))],
        suite,
        batch_size=3,
        seed=0,
        progress=lambda *_: None,
        folder=folder,
    )
    if found.failures:
        raise InputError(str(found.failures[0]))
    return {record.metric: record for record in found.records}, found.details.as_data()


@pytest.fixture
def marked(tmp_path):
    """Rows of which a label marks those out of distribution, in between the others."""
    rows = [{"text": text, "label": "none" if text in OUT else "rain"} for text in (*OUT, *IN)]
    return {
        "kind": "classification",
        "dataset_name": write_rows(tmp_path / "marked.jsonl", *rows[1:], rows[0]),
    }


@pytest.fixture
def apart(tmp_path):
    """The same rows in two files without labels."""
    return [
        {
            "kind": "classification",
            "dataset_name": write_rows(
                tmp_path / f"{i}.jsonl", *({"text": text} for text in texts)
            ),
        }
        for i, texts in enumerate((IN, OUT))
    ]


@pytest.mark.parametrize("kind", ["max_probability", "max_logit", "energy"])
def test_the_measure_is_of_the_models_own_confidence(weather_model, apart, kind):
    suite = suite_of(data=apart[0], out_data=apart[1], confidence=kind)
    records, details = measured(suite, weather_model)
    tokenizer = AutoTokenizer.from_pretrained(weather_model)
    model = AutoModelForSequenceClassification.from_pretrained(weather_model).eval()
    with torch.no_grad():
        logits = torch.cat(
            [model(**tokenizer(text, return_tensors="pt")).logits for text in IN + OUT]
        ).double()
    sure = {
        "max_probability": logits.softmax(1).max(1).values,
        "max_logit": logits.max(1).values,
        "energy": logits.logsumexp(1),
    }[kind]
    auroc = roc_auc_score([True] * len(IN) + [False] * len(OUT), sure)
    assert records["auroc"].value == pytest.approx(auroc)
    assert list(records) == ["auroc", "aupr_in", "aupr_out", "fpr_at_95_recall"]
    assert {record.num_examples for record in records.values()} == {len(IN) + len(OUT)}
    assert [s["prompt"] for s in details["samples"]] == [*IN[:4], *OUT]
    assert details["samples"][-1]["reference"] == "out of distribution"
    assert details["samples"][-1]["answers"]["m"]["text"].endswith(f"({sure[-1]:.3f})")


def test_a_label_marks_what_two_files_keep_apart(weather_model, marked, apart, capsys):
    by_label, _ = measured(suite_of(data=marked, out_labels=["none"]), weather_model)
    by_file, _ = measured(suite_of(data=apart[0], out_data=apart[1]), weather_model)
    for name, record in by_label.items():
        assert record.value == pytest.approx(by_file[name].value)
    assert "has the label" not in capsys.readouterr().err


def test_a_classifier_that_knows_the_marked_label_is_told(weather_model, tmp_path, capsys):
    rows = [{"text": "wet", "label": "rain"}, {"text": "loud", "label": "wind"}]
    data = {"kind": "classification", "dataset_name": write_rows(tmp_path / "rows.jsonl", *rows)}
    measured(suite_of(data=data, out_labels=["wind"]), weather_model)
    assert "weather: m has the label wind itself" in capsys.readouterr().err


def test_texts_in_pairs_are_read_on_both_sides(weather_model, tmp_path):
    files = [
        {
            "kind": "classification",
            "dataset_name": write_rows(tmp_path / f"{i}.jsonl", {"text": "wet", "text_pair": pair}),
        }
        for i, pair in enumerate(("wet", "cold"))
    ]
    _, details = measured(suite_of(data=files[0], out_data=files[1]), weather_model)
    assert [sample["prompt"] for sample in details["samples"]] == ["wet | wet", "wet | cold"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [(["snow"], "none of the 8 rows have"), (["none", "rain"], "all of the 8 rows have")],
)
def test_rows_of_one_kind_are_refused(weather_model, marked, labels, message):
    with pytest.raises(InputError, match=message):
        measured(suite_of(data=marked, out_labels=labels), weather_model)


@pytest.mark.parametrize(
    "fields", [{}, {"out_labels": ["a"], "out_data": {"kind": "task", "num_examples": 5}}]
)
def test_out_of_distribution_is_said_in_one_way(fields):
    with pytest.raises(InputError, match=r"tasks.0.out_data: .* either out_data .* or out_labels"):
        suite_of(**fields)


def test_the_embedded_task_has_requests_and_sums():
    (task,) = with_tasks(find_suite("ood"), ["intents"]).tasks
    inside, outside = rows_of(task, seed=0)
    assert (len(inside), len(outside)) == (2000, 500)
    assert set(inside[0]) == set(outside[0]) == {"text"}
    assert all("+" in row["text"] for row in outside)


rows = st.lists(st.floats(-30, 30), min_size=2, max_size=5)


@given(rows, st.floats(-5, 5))
def test_probability_ignores_a_shift_of_the_logits_which_moves_logit_and_energy(row, shift):
    logits, moved = np.array([row]), np.array([row]) + shift
    assert confidences(moved, "max_probability") == pytest.approx(
        confidences(logits, "max_probability")
    )
    for kind in ("max_logit", "energy"):
        assert confidences(moved, kind) - confidences(logits, kind) == pytest.approx(shift)
    # log sum exp lies between the highest and that plus log of their number.
    excess = (confidences(logits, "energy") - confidences(logits, "max_logit"))[0]
    assert -1e-9 <= excess <= np.log(len(row)) + 1e-9


def test_large_logits_do_not_overflow():
    logits = np.array([[1e4, 0.0], [-1e4, -1e4]])
    assert confidences(logits, "energy") == pytest.approx([1e4, -1e4 + np.log(2)])
    assert confidences(logits, "max_probability") == pytest.approx([1, 0.5])


@pytest.fixture
def intents(tmp_path, real_data):
    """CLINC150's first 400 requests of ten intents, and a classifier that was taught some of them."""
    lines = (real_data / "clinc150" / "validation.jsonl").read_text().splitlines()
    requests = [row for row in map(json.loads, lines) if row["label"] != "oos"][:200]
    labels = sorted({row["label"] for row in requests})
    tokenizer = word_tokenizer(vocabulary_of([row["text"] for row in requests]))
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "bert", vocab_size=len(tokenizer), hidden_size=48, intermediate_size=48,
        num_hidden_layers=1, num_attention_heads=2, initializer_range=0.1,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **head_config(labels),
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    batch = tokenizer([row["text"] for row in requests], padding=True, return_tensors="pt")
    targets = torch.tensor([labels.index(row["label"]) for row in requests])
    for _ in range(30):
        optimizer.zero_grad()
        model(**batch, labels=targets).loss.backward()
        optimizer.step()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    oos = [line for line in lines if '"oos"' in line]
    path = tmp_path / "some.jsonl"
    path.write_text("\n".join([*map(json.dumps, requests), *oos]))
    return tmp_path / "model", path


@pytest.mark.real_data
def test_a_classifier_of_real_requests_is_less_sure_of_those_out_of_scope(intents):
    model, path = intents
    suite = with_data(find_suite("ood"), [f"clinc150={path}"], ["clinc150.label=label"])
    records, _ = measured(with_tasks(suite, ["clinc150"]), model)
    assert records["auroc"].num_examples == 300
    assert 0.8 < records["auroc"].ci_low < records["auroc"].ci_high <= 1
    assert records["fpr_at_95_recall"].value < 0.6
