import json
import math

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from llmkd.errors import InputError
from llmkd.evaluation import perplexity
from llmkd.evaluation.continuations import beginnings
from llmkd.evaluation.kept import Kept
from llmkd.evaluation.perplexity import score_text
from llmkd.recipe.evaluation import PerplexityTask
from llmkd.recipe.models import PretrainedModel
from llmkd.teacher_data.transformers_engine import load_for_inference

TEXTS = ["1+2=3", "12+34=46;#", "7", "1234567890"]


def task(path, max_length, *, join_rows=False):
    data = {"dataset_name": str(path), "max_length": max_length}
    return PerplexityTask.model_validate(
        {"kind": "perplexity", "name": "text", "data": data, "join_rows": join_rows}
    )


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


def score(model, tokenizer, a_task, batch_size=3, progress=lambda done, total: None):
    found = score_text(model, tokenizer, a_task, batch_size=batch_size, seed=0, progress=progress)
    return found.losses, found.counts


def by_hand(model, ids, max_length):
    """Summed loss of every token but the first, one prediction at a time, in float64."""
    model, total = model.double(), 0.0
    for t in range(1, len(ids)):
        start = (t - 1) // max_length * max_length
        with torch.no_grad():
            logits = model(torch.tensor([ids[start:t]])).logits[0, -1]
        total -= logits.log_softmax(-1)[ids[t]].item()
    model.float()
    return total


@pytest.mark.parametrize("max_length", [3, 4, 100])
def test_each_row_is_scored_from_its_bos_in_windows(tiny_llama, tokenizer, texts, max_length):
    model = tiny_llama(tokenizer)
    losses, counts = score(model, tokenizer, task(texts, max_length))
    expected = [by_hand(model, tokenizer(text).input_ids, max_length) for text in TEXTS]
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    np.testing.assert_array_equal(counts, [len(text) for text in TEXTS])


@pytest.mark.parametrize("max_length", [4, 7, 100])
def test_joined_rows_are_one_stream(tiny_llama, tokenizer, texts, max_length):
    model = tiny_llama(tokenizer)
    losses, counts = score(model, tokenizer, task(texts, max_length, join_rows=True))
    stream = [token for text in TEXTS for token in tokenizer(text).input_ids]
    assert losses.sum() == pytest.approx(by_hand(model, stream, max_length), rel=1e-4)
    assert counts.sum() == len(stream) - 1
    assert len(counts) == math.ceil((len(stream) - 1) / max_length)
    assert (counts[:-1] == max_length).all()


def test_batches_and_chunks_change_nothing(tiny_llama, tokenizer, texts, monkeypatch):
    model = tiny_llama(tokenizer)
    expected, _ = score(model, tokenizer, task(texts, 4), batch_size=100)
    alone, _ = score(model, tokenizer, task(texts, 4), batch_size=1)
    np.testing.assert_allclose(alone, expected, rtol=1e-5)
    monkeypatch.setattr(perplexity, "POSITIONS_AT_ONCE", 3)
    monkeypatch.setattr(perplexity, "LOGITS_AT_ONCE", 1)
    calls = []
    split, _ = score(
        model, tokenizer, task(texts, 4), 100, lambda done, total: calls.append((done, total))
    )
    np.testing.assert_allclose(split, expected, rtol=1e-5)
    assert calls == [(i, 9) for i in range(1, 10)]


def test_a_bfloat16_model_is_scored_in_float32(tiny_llama, tokenizer, texts):
    model = tiny_llama(tokenizer)
    expected, _ = score(model, tokenizer, task(texts, 100))
    losses, _ = score(model.bfloat16(), tokenizer, task(texts, 100))
    # Weights and logits have 8 bits; the loss of the one token of "7" has more.
    np.testing.assert_allclose(losses, expected, rtol=5e-2)
    assert losses[2] != torch.tensor(losses[2]).bfloat16().item()


def test_a_window_longer_than_the_model_has_positions_is_refused(tokenizer, texts):
    shape = {"n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 8, "vocab_size": len(tokenizer)}
    model = GPT2LMHeadModel(GPT2Config(**shape)).eval()
    with pytest.raises(InputError, match=r"10 tokens are read at once.*write max_length: 8"):
        score(model, tokenizer, task(texts, 9 + 1))
    # 8 tokens are read and the ninth is predicted.
    _, counts = score(model, tokenizer, task(texts, 8))
    assert counts.sum() == sum(map(len, TEXTS))


def test_rotary_positions_may_go_on_but_that_is_said(tiny_llama, tokenizer, texts, capsys):
    model = tiny_llama(tokenizer, max_position_embeddings=4)
    score(model, tokenizer, task(texts, 100))
    assert "10 tokens are more than the 4" in capsys.readouterr().err


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "max_length", "join_rows", "expected"),
    [
        ("stories260K", 256, True, 1.5144),
        ("stories260K", 100_000, False, 1.4647),
        ("llama2xs279K", 256, True, 2.1009),
    ],
)
def test_the_loss_of_a_real_model_is_the_one_known(
    real_data, name, max_length, join_rows, expected
):
    folder = real_data / "models" / name / "hf"
    model, tokenizer = load_for_inference(PretrainedModel(model_name_or_path=str(folder)))
    stories = task(real_data / "tinystories" / "validation.jsonl", max_length, join_rows=join_rows)
    losses, counts = score(model, tokenizer, stories, batch_size=16)
    assert losses.sum() / counts.sum() == pytest.approx(expected, abs=4e-4)
    if join_rows:
        # The known figures of streams leave out the last window, which is not filled.
        assert counts[:-1].sum() == 31_488
        losses, counts = losses[:-1], counts[:-1]
    assert losses.sum() / counts.sum() == pytest.approx(expected, abs=6e-5)


ANSWERS = [("1+2=", "#3"), ("12+34=", "6;4#46"), ("9=", "9")]


def test_of_prompt_and_completion_only_the_completion_and_its_end_are_scored(
    tiny_llama, tokenizer, tmp_path, capsys
):
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in ANSWERS]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = tiny_llama(tokenizer)
    losses, counts = score(model, tokenizer, task(tmp_path / "a.jsonl", 100))
    for (prompt, completion), loss in zip(ANSWERS, losses, strict=True):
        ids = [*tokenizer(prompt + completion).input_ids, tokenizer.eos_token_id]
        asked = by_hand(model, tokenizer(prompt).input_ids, 100)
        assert loss == pytest.approx(by_hand(model, ids, 100) - asked, rel=1e-4)
    np.testing.assert_array_equal(counts, [len(completion) + 1 for _, completion in ANSWERS])
    assert capsys.readouterr().err == ""
    _, counts = score(model, tokenizer, task(tmp_path / "a.jsonl", 8))
    np.testing.assert_array_equal(counts, [3, 1, 2])
    assert "of 3 rows 1 were cut to max_length 8, 0 had nothing to score" in capsys.readouterr().err
    without = task(tmp_path / "a.jsonl", 100)
    data = without.data.model_copy(update={"append_eos": False})
    _, counts = score(model, tokenizer, without.model_copy(update={"data": data}))
    np.testing.assert_array_equal(counts, [len(completion) for _, completion in ANSWERS])
    # A prompt that fills the window is not handed to generation either.
    assert [t.prompt for t in beginnings(task(tmp_path / "a.jsonl", 5), tokenizer, seed=0)] == [
        "9="
    ]
    with pytest.raises(InputError, match="join_rows: only rows of text can be joined"):
        score(model, tokenizer, task(tmp_path / "a.jsonl", 8, join_rows=True))


def test_of_messages_only_what_the_assistant_says_is_scored(tiny_llama, tokenizer, tmp_path):
    tokenizer.chat_template = (
        "<bos>{% for m in messages %}{{ m.content }}"
        "{% if m.role == 'assistant' %};{% else %}={% endif %}{% endfor %}"
    )
    chats = [("1+2", "3"), ("12+34", "46")]
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in chats
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = tiny_llama(tokenizer)
    losses, counts = score(model, tokenizer, task(tmp_path / "a.jsonl", 100))
    for (question, answer), loss in zip(chats, losses, strict=True):
        whole, asked = (
            by_hand(model, tokenizer(text).input_ids, 100)
            for text in (f"{question}={answer};", f"{question}=")
        )
        assert loss == pytest.approx(whole - asked, rel=1e-4)
    np.testing.assert_array_equal(counts, [2, 3])
    # Samples show the conversation as the model reads it.
    found = beginnings(task(tmp_path / "a.jsonl", 100), tokenizer, seed=0)
    assert [(text.prompt, text.reference) for text in found] == [("1+2=", "3"), ("12+34=", "46")]


def test_batches_that_are_kept_are_not_scored_again_and_give_the_same_bits(
    tiny_llama, tokenizer, tmp_path, monkeypatch
):
    path = tmp_path / "texts.jsonl"
    texts = [f"{i}+{j}={i + j}" for i in range(4) for j in range(5)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    task = PerplexityTask.model_validate(
        {"kind": "perplexity", "name": "t", "data": {"dataset_name": str(path), "max_length": 8}}
    )
    model = tiny_llama(tokenizer)
    forward, calls = model.forward, []

    def counted(*arguments, **named):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(*arguments, **named)

    def run(kept):
        return score_text(
            model, tokenizer, task, batch_size=4, seed=0, progress=lambda *_: None, kept=kept
        )

    whole = run(None)
    monkeypatch.setattr(model, "forward", counted)
    with pytest.raises(KeyboardInterrupt):
        run(Kept(tmp_path / "kept.jsonl", {}))
    found = run(Kept(tmp_path / "kept.jsonl", {}))
    num_batches = -(-len(texts) // 4)
    assert len(calls) == num_batches + 1
    np.testing.assert_array_equal(found.losses, whole.losses)
    assert found.bins == whole.bins
