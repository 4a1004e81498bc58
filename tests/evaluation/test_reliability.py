import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmkd.evaluation import perplexity
from llmkd.evaluation.perplexity import score_text
from llmkd.evaluation.reliability import NUM_BINS, Reliability
from llmkd.recipe.evaluation import PerplexityTask

TEXTS = ["1+2=3", "12+34=46;#", "7", "1234567890" * 3]

predictions = st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=50)


def reliability(found):
    gathered = Reliability()
    confidences, is_right = zip(*found, strict=True)
    gathered.add(np.array(confidences, np.float32), np.array(is_right))
    return gathered.bins()


def test_bins_worked_out_by_hand():
    # Fifteenths: 0.1 and 0.12 are in [1/15, 2/15), 0.5 in [7/15, 8/15), 0.95 and 1 in the last.
    found = [(0.1, False), (0.95, True), (0.5, True), (0.12, True), (1.0, False), (0.95, True)]
    low, middle, high = reliability(found)
    assert (low.count, middle.count, high.count) == (2, 1, 3)
    assert low.confidence == pytest.approx(0.11)
    assert middle.confidence == pytest.approx(0.5)
    assert high.confidence == pytest.approx(2.9 / 3)
    assert (low.accuracy, middle.accuracy) == (0.5, 1.0)
    assert high.accuracy == pytest.approx(2 / 3)


@given(predictions)
def test_bins_keep_every_prediction_in_its_own_fifteenth(found):
    bins = reliability(found)
    assert sum(one.count for one in bins) == len(found)
    assert all(one.count > 0 and 0 <= one.accuracy <= 1 for one in bins)
    total = sum(one.count * one.confidence for one in bins)
    assert total == pytest.approx(sum(confidence for confidence, _ in found), abs=1e-9)
    right = sum(one.count * one.accuracy for one in bins)
    assert right == pytest.approx(sum(is_right for _, is_right in found))
    edges = np.linspace(0, 1, NUM_BINS + 1)
    homes = [np.searchsorted(edges, one.confidence, side="right") for one in bins]
    # Means of equal numbers can end up a rounding beside the edge that they lie on.
    assert homes == sorted(homes)


@given(predictions)
def test_in_which_batches_predictions_come_changes_nothing(found):
    gathered = Reliability()
    for confidence, is_right in found:
        gathered.add(np.array([confidence], np.float32), np.array([is_right]))
    for one, other in zip(gathered.bins(), reliability(found), strict=True):
        assert one.count == other.count
        assert one.confidence == pytest.approx(other.confidence, abs=1e-12)
        assert one.accuracy == other.accuracy


def test_no_number_is_in_no_bin():
    assert [one.count for one in reliability([(np.nan, False), (0.3, True)])] == [1]


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    data = {"dataset_name": str(path), "max_length": 12}
    return PerplexityTask.model_validate({"kind": "perplexity", "name": "text", "data": data})


def bins_by_hand(model, tokenizer, max_length):
    """One prediction at a time, in float64: (confidence, accuracy, count) of each bin."""
    model, gathered = model.double(), [[] for _ in range(15)]
    for text in TEXTS:
        ids = tokenizer(text).input_ids
        for t in range(1, len(ids)):
            start = (t - 1) // max_length * max_length
            with torch.no_grad():
                probabilities = model(torch.tensor([ids[start:t]])).logits[0, -1].softmax(-1)
            best = probabilities.argmax().item()
            confidence = probabilities[best].item()
            gathered[min(int(confidence * 15), 14)].append((confidence, best == ids[t]))
    model.float()
    return [
        (sum(c for c, _ in one) / len(one), sum(r for _, r in one) / len(one), len(one))
        for one in gathered
        if one
    ]


@pytest.mark.parametrize("at_once", [1024, 5])
def test_a_models_bins_are_those_of_one_prediction_at_a_time(
    tiny_llama, tokenizer, task, monkeypatch, at_once
):
    monkeypatch.setattr(perplexity, "POSITIONS_AT_ONCE", at_once)
    model = tiny_llama(tokenizer, initializer_range=0.5)
    found = score_text(
        model, tokenizer, task, batch_size=3, seed=0, progress=lambda done, total: None
    )
    expected = bins_by_hand(model, tokenizer, 12)
    assert len(expected) > 3
    assert [one.count for one in found.bins] == [count for *_, count in expected]
    for one, (confidence, accuracy, _) in zip(found.bins, expected, strict=True):
        assert one.confidence == pytest.approx(confidence, rel=1e-5)
        assert one.accuracy == pytest.approx(accuracy)
    assert sum(one.count for one in found.bins) == found.counts.sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_losses_are_cross_entropys_bit_for_bit(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(40, 300, generator=generator).to(dtype)
    # A token ruled out, and positions that are not scored.
    logits[3, 7] = -torch.inf
    targets = torch.randint(0, 300, (40,), generator=generator)
    targets[3], targets[::6] = 7, -100
    gathered = Reliability()
    losses = perplexity._chunk_losses(logits, targets, gathered)
    expected = torch.nn.functional.cross_entropy(
        logits.float(), targets, ignore_index=-100, reduction="none"
    )
    assert torch.equal(losses, expected)
    assert sum(gathered.counts) == (targets != -100).sum()
