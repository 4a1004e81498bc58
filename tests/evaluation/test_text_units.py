import json
import math

import numpy as np
import pytest

from llmkd.evaluation.perplexity import ScoredText, score_text
from llmkd.evaluation.text_units import text_units
from llmkd.evaluation.windows import windows_of
from llmkd.recipe.evaluation import PerplexityTask

TEXTS = ["a b\nc", "é 😀", "word", "  "]


@pytest.fixture
def task(tmp_path):
    def make(texts=TEXTS, max_length=100, join_rows=False):
        path = tmp_path / "texts.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        data = {"dataset_name": str(path), "max_length": max_length}
        content = {"kind": "perplexity", "name": "text", "data": data, "join_rows": join_rows}
        return PerplexityTask.model_validate(content)

    return make


def scored(losses, num_bytes, num_words):
    arrays = [np.array(values, float) for values in (losses, losses, num_bytes, num_words)]
    return ScoredText(*arrays, bins=[])


def values(found):
    return {one.metric: one.found.value for one in text_units(found, 0)}


def test_losses_per_byte_and_word_by_hand():
    # 6 nats over 12 bytes and 3 words.
    assert values(scored([2, 4], [4, 8], [1, 2])) == pytest.approx(
        {
            "bits_per_byte": 0.5 / math.log(2),
            "byte_perplexity": math.exp(0.5),
            "word_perplexity": math.exp(2),
        }
    )


def test_what_has_no_text_has_no_such_metric():
    assert values(scored([2, 4], [0, 0], [0, 0])) == {}
    assert values(scored([2, 4], [1, 2], [0, 0])).keys() == {"bits_per_byte", "byte_perplexity"}


def test_a_row_of_white_space_adds_its_loss_and_no_word():
    found = text_units(scored([2, 4], [1, 2], [0, 3]), 0)
    assert values(scored([2, 4], [1, 2], [0, 3]))["word_perplexity"] == pytest.approx(math.exp(2))
    # Of two rows, every fourth resample is the first row twice.
    resampled = found[-1].found.resampled
    assert 0.2 < np.isnan(resampled).mean() < 0.3
    assert set(np.round(np.log(resampled[~np.isnan(resampled)]), 6)) == {2, round(4 / 3, 6)}
    assert found[-1].found.interval.high == pytest.approx(math.exp(2))


def test_rows_with_nothing_to_score_are_counted(task, chat_tokenizer, capsys):
    windows = list(windows_of(task(["a", "word", "b"]), chat_tokenizer, seed=0))
    assert [one.num_scored for one in windows] == [3]
    assert "text: of 3 rows 2 had nothing to score" in capsys.readouterr().err
    list(windows_of(task(), chat_tokenizer, seed=0))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("join_rows", [False, True])
@pytest.mark.parametrize("max_length", [2, 3, 100])
def test_windows_share_out_the_bytes_and_words_of_the_text(
    task, chat_tokenizer, max_length, join_rows
):
    # A token per byte. Here nothing begins a text, so a row's first token (or the stream's) is not
    # scored.
    windows = list(
        windows_of(task(max_length=max_length, join_rows=join_rows), chat_tokenizer, seed=0)
    )
    lengths = [len(text.encode()) for text in TEXTS]
    counts = [len(text.split()) for text in TEXTS]
    first = [1] + [0 if join_rows else 1] * 3
    assert sum(one.num_bytes for one in windows) == pytest.approx(sum(lengths) - sum(first))
    left_out = sum(
        count * n / length for count, n, length in zip(counts, first, lengths, strict=True)
    )
    assert sum(one.num_words for one in windows) == pytest.approx(sum(counts) - left_out)
    assert all(one.num_bytes == pytest.approx(one.num_scored) for one in windows)


def test_a_begin_of_text_token_is_no_text(task, framed):
    framed_rows = task(["12", "345"])
    windows = list(windows_of(framed_rows, framed("<bos> $A"), seed=0))
    assert [one.num_scored for one in windows] == [2, 3]
    assert [one.num_bytes for one in windows] == pytest.approx([2, 3])
    joined = list(windows_of(task(["12", "345"], join_rows=True), framed("<bos> $A"), seed=0))
    # The second row's begin-of-text token is predicted too.
    assert [(one.num_scored, one.num_bytes) for one in joined] == [(6, pytest.approx(5))]


@pytest.mark.real_data
def test_real_stories_have_the_bytes_and_words_of_their_text(real_data):
    from llmkd.evaluation.subject import subject_at
    from llmkd.models.load import load_model

    path = real_data / "tinystories" / "validation.jsonl"
    data = {"dataset_name": str(path), "num_examples": 8, "max_length": 100_000}
    rows = PerplexityTask.model_validate({"kind": "perplexity", "name": "text", "data": data})
    subject = subject_at("m", str(real_data / "models" / "stories260K" / "hf"), load_model)
    found = score_text(
        subject.model, subject.tokenizer, rows, batch_size=8, seed=0, progress=lambda *_: None
    )
    texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").split("\n")[:8]]
    assert found.num_bytes == pytest.approx([len(text.encode()) for text in texts])
    assert found.num_words == pytest.approx([len(text.split()) for text in texts])
    per_byte = found.losses.sum() / sum(len(text.encode()) for text in texts)
    assert values(found)["bits_per_byte"] == pytest.approx(per_byte / math.log(2))
