import numpy as np
import pytest

from llmkd.data.addition import make_rows
from llmkd.evaluation import exact_match
from llmkd.evaluation.exact_match import is_right, score_answers
from llmkd.evaluation.kept import Kept
from llmkd.recipe.evaluation import ExactMatchTask
from llmkd.teacher_data.engine import Written

REFERENCE = "8+7+0=15;5+6+1=12;3+4+1=08;#0825"
TASK = ExactMatchTask.model_validate(
    {
        "kind": "exact_match",
        "name": "addition",
        "data": {"kind": "task", "num_examples": 10, "split": "test"},
    }
)


@pytest.mark.parametrize(
    ("text", "finish_reason", "expected"),
    [
        (REFERENCE, "stop", True),
        ("nonsense#0825", "stop", True),
        (REFERENCE, "length", False),
        ("#825", "stop", False),
        ("#08250", "stop", False),
        ("#0825#0826", "stop", False),
        ("0825", "stop", False),
        ("", "stop", False),
    ],
)
def test_only_the_answer_counts_to_the_character(text, finish_reason, expected):
    assert is_right(Written([0], text, finish_reason), REFERENCE) is expected


@pytest.mark.parametrize(
    ("text", "finish_reason", "expected"),
    [
        ("0825", "stop", True),
        ("0825", "length", False),
        ("825", "stop", False),
        ("3+4+1=08;0825", "stop", False),
        ("3+4+1=08;#0825", "stop", True),
        ("0825;#1", "stop", False),
        ("", "stop", False),
    ],
)
def test_an_answer_without_steps_is_all_that_is_said(text, finish_reason, expected):
    assert is_right(Written([0], text, finish_reason), "0825") is expected


def test_each_example_gets_the_score_of_its_own_answer(tiny_llama, tokenizer, monkeypatch):
    rows = {row["prompt"]: row["completion"] for row in make_rows(TASK.data, 7)}
    wrong = list(rows)[2:5]
    asked = []

    def answer(model, tokenizer, prompts, *, temperature, max_completion_length, seed):
        assert (temperature, max_completion_length) == (0, 64)
        asked.append(len(prompts))
        return [
            Written([0] * (2 if p in wrong else 30), "#" if p in wrong else rows[p], "stop")
            for p in prompts
        ]

    monkeypatch.setattr(exact_match, "generate", answer)
    calls = []
    found = score_answers(
        tiny_llama(tokenizer),
        tokenizer,
        TASK,
        batch_size=4,
        seed=7,
        progress=lambda done, total: calls.append((done, total)),
    )
    np.testing.assert_array_equal(found.scores, [1, 1, 0, 0, 0, 1, 1, 1, 1, 1])
    assert found.lengths == [30, 30, 2, 2, 2, 30, 30, 30, 30, 30]
    # The first eight, in the order asked.
    assert [sample.example for sample in found.samples] == list(range(8))
    assert [sample.prompt for sample in found.samples] == list(rows)[:8]
    assert [sample.reference for sample in found.samples] == list(rows.values())[:8]
    assert [sample.is_right for sample in found.samples] == [True] * 2 + [False] * 3 + [True] * 3
    assert [sample.text for sample in found.samples][1:3] == [list(rows.values())[1], "#"]
    assert asked == [4, 4, 2]
    assert calls == [(4, 10), (8, 10), (10, 10)]


def test_only_answers_that_are_not_kept_are_asked_for(tiny_llama, tokenizer, monkeypatch, tmp_path):
    asked = []

    def answer(model, tokenizer, prompts, **_):
        asked.append(prompts)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return [Written([1, 2], f"#{prompt}", "stop") for prompt in prompts]

    def run():
        kept = Kept(tmp_path / "answers.jsonl", {})
        return score_answers(
            tiny_llama(tokenizer), tokenizer, TASK, batch_size=4, seed=7, progress=lambda *_: None,
            kept=kept,
        )  # fmt: skip

    monkeypatch.setattr(exact_match, "generate", answer)
    with pytest.raises(KeyboardInterrupt):
        run()
    found = run()
    # The batch that was cut off, whole, and what came after it.
    assert asked[2] == asked[1]
    assert [len(prompts) for prompts in asked] == [4, 4, 4, 2]
    prompts = [row["prompt"] for row in make_rows(TASK.data, 7)]
    assert [sample.text for sample in found.samples] == [f"#{prompt}" for prompt in prompts[:8]]
