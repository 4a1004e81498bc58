"""Seq2seq models are measured on prompts and completions, beside causal ones."""

import json

import numpy as np
import pytest
import torch

from llmkd.errors import InputError
from llmkd.evaluation.evaluate import evaluate
from llmkd.evaluation.perplexity import score_text
from llmkd.recipe.evaluation import PerplexityTask, Suite

ROWS = [
    {"prompt": "1+2=", "completion": "3"},
    {"prompt": "12+34=", "completion": "46"},
    {"prompt": "5=", "completion": "1234567"},
]


@pytest.fixture
def answers(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def task(path, **settings):
    join_rows = settings.pop("join_rows", False)
    data = {"dataset_name": path, **settings}
    return PerplexityTask.model_validate(
        {"kind": "perplexity", "name": "text", "data": data, "join_rows": join_rows}
    )


def score(model, tokenizer, a_task, batch_size=2):
    return score_text(
        model, tokenizer, a_task, batch_size=batch_size, seed=0, progress=lambda *_: None
    )


def by_hand(model, source, target):
    """Summed loss of the target, one prediction at a time, in float64."""
    model, total = model.double(), 0.0
    for t, token in enumerate(target):
        read = torch.tensor([[model.config.decoder_start_token_id, *target[:t]]])
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([source]), decoder_input_ids=read).logits[0, -1]
        total -= logits.log_softmax(-1)[token].item()
    model.float()
    return total


@pytest.mark.parametrize("kind", ["t5", "bart"])
@pytest.mark.parametrize("append_eos", [True, False])
def test_every_completion_is_scored_from_its_prompt(
    tiny_seq2seq, tokenizer, answers, kind, append_eos
):
    model = tiny_seq2seq(tokenizer, kind, decoder_start_token_id=tokenizer.bos_token_id)
    found = score(model, tokenizer, task(answers, append_eos=append_eos))
    end = [tokenizer.eos_token_id] if append_eos else []
    pairs = [
        (
            tokenizer(row["prompt"])["input_ids"],
            tokenizer(row["completion"], add_special_tokens=False)["input_ids"] + end,
        )
        for row in ROWS
    ]
    np.testing.assert_allclose(found.losses, [by_hand(model, *pair) for pair in pairs], rtol=1e-4)
    np.testing.assert_array_equal(found.counts, [len(target) for _, target in pairs])
    assert sum(one.count for one in found.bins) == sum(len(target) for _, target in pairs)


def test_how_rows_come_in_batches_does_not_show(tiny_seq2seq, tokenizer, answers):
    model = tiny_seq2seq(tokenizer)
    one, all_of_them = (score(model, tokenizer, task(answers), size) for size in (1, 3))
    np.testing.assert_allclose(one.losses, all_of_them.losses, rtol=1e-5)


def test_text_and_joined_rows_are_refused(tiny_seq2seq, tokenizer, answers, tmp_path):
    (tmp_path / "text.jsonl").write_text('{"text": "1+2=3"}\n')
    model = tiny_seq2seq(tokenizer)
    with pytest.raises(InputError, match="rows of `text`"):
        score(model, tokenizer, task(str(tmp_path / "text.jsonl")))
    with pytest.raises(InputError, match="only rows of text can be joined"):
        score(model, tokenizer, task(answers, join_rows=True))


def test_each_side_may_be_as_long_as_the_model_has_positions(tiny_seq2seq, tokenizer, answers):
    # Sides of up to 8 and, with the begin and end that the decoder writes, 9 tokens.
    score(tiny_seq2seq(tokenizer, "bart", max_position_embeddings=9), tokenizer, task(answers))
    with pytest.raises(InputError, match="9 tokens are read at once, and the model has 8"):
        score(tiny_seq2seq(tokenizer, "bart", max_position_embeddings=8), tokenizer, task(answers))


def test_a_seq2seq_model_is_measured_beside_a_causal_one(
    tiny_seq2seq, tiny_llama, tokenizer, answers, tmp_path
):
    suite = Suite.model_validate(
        {
            "name": "both",
            "tasks": [
                {"kind": "perplexity", "name": "text", "data": {"dataset_name": answers}},
                {
                    "kind": "exact_match",
                    "name": "sums",
                    "data": {"kind": "task", "digits": 1, "split": "test", "num_examples": 5},
                    "max_completion_length": 6,
                },
            ],
        }
    )
    models = {"t5": tiny_seq2seq(tokenizer), "llama": tiny_llama(tokenizer)}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    found = evaluate(
        [(name, str(tmp_path / name)) for name in models],
        suite,
        batch_size=4,
        seed=0,
        progress=lambda *_: None,
    )
    assert [(r.model, r.metric) for r in found.records] == [
        (name, metric)
        for name in models
        for metric in ("loss_per_token", "perplexity", "exact_match")
    ]
    samples = found.details.as_data()["samples"]
    continued = [sample for sample in samples if sample["task"] == "text"]
    assert [sample["prompt"] for sample in continued] == [row["prompt"] for row in ROWS]
    assert all(sample["answers"].keys() == models.keys() for sample in samples)
