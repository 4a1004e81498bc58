import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from llmkd.curation.run import run_curation
from llmkd.data.addition import make_rows
from llmkd.data.tokenize import ROWS_AT_ONCE
from llmkd.errors import LlmkdError
from llmkd.recipe.curation import CurateStage
from llmkd.recipe.data import AdditionTask
from llmkd.recipe.schema import GenerateStage, ScoreStage
from llmkd.run_folder import fingerprint
from llmkd.teacher_data import capture
from llmkd.teacher_data.capture import run_capture
from llmkd.teacher_data.engine import Written
from llmkd.teacher_data.places import open_store
from llmkd.teacher_data.store import OtherSettingsError, tokens_key

SEED = 3


@pytest.fixture
def teacher(tiny_llama, tokenizer, tmp_path):
    folder = tmp_path / "teacher"
    tiny_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def stage(
    teacher,
    num_examples=23,
    max_completion_length=12,
    temperature=1.0,
    data=None,
    capture=None,
    **more,
):
    task = {"kind": "task", "num_examples": num_examples, "split": "unlabelled"}
    return GenerateStage.model_validate(
        {
            "kind": "generate",
            "teacher": {"model_name_or_path": str(teacher)},
            "data": data or task,
            "engine": {"batch_size": 4},
            "shard_size": 4,
            "capture": capture,
            "generation": {
                "temperature": temperature,
                "max_completion_length": max_completion_length,
                **more,
            },
        }
    )


def run(a_stage, folder, progress=lambda done, total, **figures: None):
    return run_capture(a_stage, folder, seed=SEED, progress=progress)


def rows(folder):
    return [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]


class KilledError(Exception):
    pass


def killed_after(num_prompts):
    def progress(done, total, **figures):
        if done >= num_prompts:
            raise KilledError

    return progress


def contents(folder):
    """Every file of the stage's folder, and what is in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_cut_and_empty_completions_are_left_out_of_the_text_and_counted(teacher, tmp_path):
    summary = run(stage(teacher), tmp_path / "out")
    kept = rows(tmp_path / "out")
    assert summary == json.loads((tmp_path / "out" / "generation.json").read_text())
    assert summary["num_prompts"] == summary["num_completions"] == 23
    assert summary["num_kept"] == len(kept) > 0
    assert summary["num_truncated"] > 0
    assert summary["num_kept"] + summary["num_truncated"] + summary["num_empty"] == 23
    assert summary["num_tokens"] >= 12 * summary["num_truncated"] + 2 * summary["num_kept"]
    assert all(row.keys() == {"prompt", "completion", "number"} for row in kept)
    assert all(row["completion"] for row in kept)
    store = open_store(tmp_path / "out")
    assert len(store) == 23
    assert [row.completion for row in store if row.finish_reason == "stop" and row.completion] == [
        row["completion"] for row in kept
    ]


def test_a_row_has_the_tokens_that_were_written(teacher, tokenizer, tmp_path):
    run(stage(teacher, max_completion_length=60), tmp_path / "out")
    for row in open_store(tmp_path / "out"):
        start, end = row.spans
        assert end == len(row.token_ids)
        assert (
            tokenizer.decode(row.token_ids[start:end], skip_special_tokens=True) == row.completion
        )
        assert tokenizer(row.prompt)["input_ids"] == row.token_ids[:start].tolist()
        assert (row.token_ids[-1] == tokenizer.eos_token_id) == (row.finish_reason == "stop")


def test_prompts_keep_their_order_and_repeats_stay(teacher, tmp_path):
    prompts = ["1+1=", "2+2=", "1+1="] * 5
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
    a_stage = stage(teacher, max_completion_length=60, data={"dataset_name": str(source)})
    run(a_stage, tmp_path / "out")
    assert [row.prompt for row in open_store(tmp_path / "out")] == prompts


def test_every_prompt_is_answered_several_times_each_time_anew(teacher, tmp_path):
    a_stage = stage(teacher, num_examples=6, max_completion_length=60, num_samples=3)
    summary = run(a_stage, tmp_path / "out")
    assert (summary["num_prompts"], summary["num_completions"]) == (6, 18)
    found = [(row.number, row.sample, row.completion) for row in open_store(tmp_path / "out")]
    assert [place[:2] for place in found] == [(n, s) for n in range(6) for s in range(3)]
    assert len({completion for *_, completion in found}) > 12


def test_the_samples_of_a_prompt_have_its_number(teacher, tmp_path):
    prompts = ["1+1=", "2+2=", "1+1="]
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
    run(
        stage(teacher, max_completion_length=60, num_samples=4, data={"dataset_name": str(source)}),
        tmp_path / "out",
    )
    kept = [row for row in open_store(tmp_path / "out") if row.finish_reason == "stop"]
    kept = [row for row in kept if row.completion]
    assert {row.number for row in kept} == {0, 1, 2}
    assert [(row["number"], row["prompt"]) for row in rows(tmp_path / "out")] == [
        (row.number, prompts[row.number]) for row in kept
    ]


def test_columns_can_be_kept_later_without_asking_again(teacher, tmp_path, monkeypatch):
    task = {"kind": "task", "num_examples": 12, "split": "unlabelled"}
    run(stage(teacher, max_completion_length=60, data=task), tmp_path / "out")
    before, without = contents(tmp_path / "out" / "store"), rows(tmp_path / "out")
    monkeypatch.setattr(capture, "build_engine", None)
    a_stage = stage(teacher, max_completion_length=60, data={**task, "keep_columns": ["answer"]})
    run(a_stage, tmp_path / "out")
    assert contents(tmp_path / "out" / "store") == before
    answers = [row["answer"] for row in make_rows(AdditionTask(**task), SEED)]
    found = rows(tmp_path / "out")
    assert found == [row | {"answer": answers[row["number"]]} for row in without]
    assert all(int(row["answer"]) == sum(map(int, row["prompt"][:-1].split("+"))) for row in found)


def test_a_stop_string_ends_a_completion_and_is_no_part_of_it(teacher, tokenizer, tmp_path):
    plain, stopped = tmp_path / "plain", tmp_path / "stopped"
    run(stage(teacher, temperature=0, max_completion_length=40), plain)
    wholes = [row.completion for row in open_store(plain)]
    stop = max("0123456789", key=lambda digit: sum(digit in text for text in wholes))
    run(stage(teacher, temperature=0, max_completion_length=40, stop=[stop]), stopped)
    for row, whole in zip(open_store(stopped), wholes, strict=True):
        assert row.completion == whole.partition(stop)[0]
        if stop in whole:
            assert row.finish_reason == "stop"
            # Its tokens go as far as the stop string, and not into the batch's padding.
            before = row.token_ids[row.spans[0] : -1]
            assert tokenizer.decode(before, skip_special_tokens=True) == row.completion


def test_progress_is_told_after_every_shard(teacher, tmp_path):
    calls = []
    run(
        stage(teacher), tmp_path / "out", lambda done, total, **figures: calls.append((done, total))
    )
    assert calls == [(0, 23), (4, 23), (8, 23), (12, 23), (16, 23), (20, 23), (23, 23)]


def test_the_seed_decides_and_shards_differ(teacher, tmp_path):
    source = tmp_path / "prompts.jsonl"
    source.write_text('{"prompt": "1+1="}\n' * 8)
    a_stage = stage(teacher, max_completion_length=60, data={"dataset_name": str(source)})
    run(a_stage, tmp_path / "a")
    run(a_stage, tmp_path / "b")
    run_capture(
        a_stage, tmp_path / "c", seed=SEED + 1, progress=lambda done, total, **figures: None
    )
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    texts = {name: [row.completion for row in open_store(tmp_path / name)] for name in "ac"}
    assert texts["a"] != texts["c"]
    assert texts["a"][:4] != texts["a"][4:]


@pytest.mark.parametrize("num_prompts", [0, 4, 16, 23])
@pytest.mark.parametrize("kept", [None, {"top_k": 4}, {"kind": "sampled", "num_samples": 6}])
def test_an_interrupted_run_goes_on_to_the_same_bytes(teacher, tmp_path, num_prompts, kept):
    a_stage = stage(teacher, capture=kept)
    run(a_stage, tmp_path / "whole")
    with pytest.raises(KilledError):
        run(a_stage, tmp_path / "out", killed_after(num_prompts))
    assert not (tmp_path / "out" / "generation.json").exists()
    calls = []
    run(a_stage, tmp_path / "out", lambda done, total, **figures: calls.append(done))
    assert calls[:1] == ([num_prompts] if num_prompts < 23 else [])
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_kill_9_in_the_middle_loses_nothing(teacher, tmp_path):
    out, a_stage = tmp_path / "out", stage(teacher, num_examples=400, capture={"top_k": 4})
    program = (
        "import sys; from pathlib import Path; from llmkd.recipe.schema import GenerateStage;"
        "from llmkd.teacher_data.capture import run_capture;"
        "run_capture(GenerateStage.model_validate_json(sys.argv[1]), Path(sys.argv[2]),"
        f" seed={SEED}, progress=lambda done, total, **figures: None)"
    )
    command = [sys.executable, "-c", program, a_stage.model_dump_json(), str(out)]
    child = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    shards = out / "store" / "shards"
    deadline = time.monotonic() + 60
    while not any(shards.glob("*.arrow")) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert 0 < len(list(shards.glob("*.arrow"))) < 100
    calls = []
    run(a_stage, out, lambda done, total, **figures: calls.append(done))
    assert calls[0] >= 4
    run(a_stage, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


class EchoEngine:
    """Answers every prompt by its last token."""

    def __init__(self):
        self.seeds = []

    def generate(self, prompts, seeds):
        self.seeds += seeds
        return [Written(ids[-1:], "x", "stop") for ids in prompts]

    def score(self, sequences, spans):
        raise NotImplementedError

    def close(self):
        """Has nothing to let go of."""


def test_the_store_says_what_all_its_prompts_were_and_in_which_order(
    teacher, tokenizer, tmp_path, monkeypatch
):
    # More than are tokenized, and stand in the cache's file, together.
    prompts = [f"{n}+{n}=" for n in range(1, 2 * ROWS_AT_ONCE + 2)]
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    monkeypatch.setattr(capture, "build_engine", lambda stage: EchoEngine())
    a_stage = stage(teacher, data={"dataset_name": str(source)})
    run(a_stage.model_copy(update={"shard_size": 700}), tmp_path / "out")
    store = open_store(tmp_path / "out")
    keys = [tokens_key(tokenizer(prompt)["input_ids"]).hex() for prompt in prompts]
    assert store.settings.data_digest == fingerprint({"rows": keys})
    assert [row.prompt for row in store.texts()] == prompts
    for row in store.texts():
        assert row.token_ids[:-1].tolist() == tokenizer(row.prompt)["input_ids"]


def test_every_completion_has_a_seed_of_its_own(teacher, tmp_path, monkeypatch):
    engine = EchoEngine()
    monkeypatch.setattr(capture, "build_engine", lambda stage: engine)
    run(stage(teacher, num_samples=3), tmp_path / "out")
    assert len(set(engine.seeds)) == len(engine.seeds) == 3 * 23


def test_a_finished_run_is_not_done_again(teacher, tmp_path, monkeypatch):
    summary = run(stage(teacher), tmp_path / "out")
    monkeypatch.setattr(capture, "build_engine", lambda stage: pytest.fail("loaded"))
    assert run(stage(teacher), tmp_path / "out") == summary


def test_another_stage_in_the_same_folder_is_refused_by_what_differs(teacher, tmp_path):
    run(stage(teacher), tmp_path / "out")
    with pytest.raises(OtherSettingsError, match=r"num_rows 23 and 9"):
        run(stage(teacher, num_examples=9), tmp_path / "out")


def test_nothing_left_says_what_to_change(teacher, tmp_path):
    with pytest.raises(LlmkdError, match=r"had no end within 1 tokens.*write a larger max_comp"):
        run(stage(teacher, num_examples=3, max_completion_length=1, temperature=0), tmp_path / "o")


def test_shares_do_what_one_process_does(teacher, tmp_path):
    a_stage = stage(teacher, capture={"top_k": 4})
    run(a_stage, tmp_path / "whole")
    for number in range(3):
        run_capture(
            a_stage,
            tmp_path / str(number),
            seed=SEED,
            progress=lambda done, total, **figures: None,
            share=(number, 3),
        )
    shards = {name: data for name, data in contents(tmp_path / "whole").items() if "shards" in name}
    parts = [contents(tmp_path / str(number)) for number in range(3)]
    found = {name: data for part in parts for name, data in part.items() if "shards" in name}
    assert found == shards
    assert sum("shards" in name for part in parts for name in part) == len(shards)


def score_stage(teacher, kept, **data):
    return ScoreStage.model_validate(
        {
            "kind": "score",
            "teacher": {"model_name_or_path": str(teacher)},
            "data": {"kind": "task", "num_examples": 10} | data,
            "engine": {"batch_size": 3},
            "shard_size": 4,
            "capture": kept,
        }
    )


def score(a_stage, folder):
    return run_capture(a_stage, folder, seed=SEED, progress=lambda done, total, **figures: None)


def test_scores_are_the_models_own_log_probabilities(teacher, tmp_path):
    score(score_stage(teacher, {"top_k": 3, "precision": "float32"}), tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(teacher).eval()
    for row in open_store(tmp_path / "out"):
        ids = torch.as_tensor(row.token_ids.astype("int64"))
        with torch.no_grad():
            log_p = model(ids[None]).logits[0].log_softmax(-1)
        start, end = row.spans
        top = log_p[start - 1 : end - 1].topk(3)
        found = row.positions
        order = (-found.log_probs).argsort(-1)
        ours = torch.as_tensor(np.take_along_axis(found.log_probs, order, -1))
        torch.testing.assert_close(ours, top.values, rtol=1e-5, atol=1e-5)
        assert np.take_along_axis(found.token_ids, order, -1).tolist() == top.indices.tolist()
        tail = torch.as_tensor(found.tail_log_prob).exp()
        torch.testing.assert_close(tail, 1 - top.values.exp().sum(-1), rtol=1e-4, atol=1e-5)
        labels = log_p[torch.arange(start - 1, end - 1), ids[start:end]]
        torch.testing.assert_close(
            torch.as_tensor(found.label_log_prob), labels, rtol=1e-5, atol=1e-5
        )


def test_draws_follow_the_model_and_do_not_depend_on_the_batch(teacher, tmp_path):
    kept = {"kind": "sampled", "num_samples": 4000, "temperature": 2.0}
    score(score_stage(teacher, kept), tmp_path / "out")
    again = score_stage(teacher, kept).model_copy(update={"shard_size": 5})
    score(again, tmp_path / "again")
    model = AutoModelForCausalLM.from_pretrained(teacher).eval()
    for row, other in zip(
        open_store(tmp_path / "out"), open_store(tmp_path / "again"), strict=True
    ):
        ids = torch.as_tensor(row.token_ids.astype("int64"))
        with torch.no_grad():
            p = (model(ids[None]).logits[0] / 2).softmax(-1)[row.spans[0] - 1 : row.spans[1] - 1]
        found = row.positions
        assert (found.counts.sum(-1) == 4000).all()
        shares = torch.zeros_like(p).scatter_add(
            -1, torch.as_tensor(found.token_ids).long(), torch.as_tensor(found.counts) / 4000.0
        )
        # Six standard deviations of a share.
        assert ((shares - p).abs() <= 6 * (p * (1 - p) / 4000).sqrt() + 1e-6).all()
        entropy = torch.distributions.Categorical(p).entropy()
        torch.testing.assert_close(torch.as_tensor(found.entropy), entropy, rtol=2e-3, atol=2e-3)
        # Rounding in another batch may move a draw or two over a border.
        assert found.counts.shape == other.positions.counts.shape
        assert np.abs(found.counts - other.positions.counts).sum() <= 4


def test_what_is_captured_while_writing_is_what_scoring_the_text_gives(teacher, tmp_path):
    kept = {"top_k": 4, "precision": "float32"}
    run(stage(teacher, max_completion_length=60, temperature=0, capture=kept), tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(teacher).eval()
    for row in open_store(tmp_path / "out"):
        ids = torch.as_tensor(row.token_ids.astype("int64"))
        with torch.no_grad():
            log_p = model(ids[None]).logits[0].log_softmax(-1)
        start, end = row.spans
        best = row.positions.log_probs.max(-1)
        expected = log_p[start - 1 : end - 1].max(-1).values
        torch.testing.assert_close(torch.as_tensor(best), expected, rtol=1e-4, atol=1e-5)
        # Greedy text: its tokens are the likeliest.
        torch.testing.assert_close(
            torch.as_tensor(row.positions.label_log_prob), expected, rtol=1e-4, atol=1e-5
        )


def test_where_no_prompt_was_left_undecided_nobody_is_asked(teacher, tmp_path, monkeypatch):
    # As a vote that decides everything leaves it.
    before = tmp_path / "agreed"
    before.mkdir()
    (before / "undecided.jsonl").touch()
    (before / "data.jsonl").write_text('{"prompt": "1+1=", "completion": "2", "number": 0}\n')
    monkeypatch.setattr(capture, "build_engine", lambda stage: pytest.fail("asked"))
    data = {"dataset_name": str(before), "dataset_split": "undecided"}
    summary = run(stage(teacher, data=data), tmp_path / "out")
    assert set(summary.values()) == {0}
    assert rows(tmp_path / "out") == []
    assert len(open_store(tmp_path / "out")) == 0
    # What goes on is what was agreed on.
    steps = [{"kind": "extract", "grader": "number"}]
    assert curated(str(tmp_path / "out"), tmp_path / "escalated", steps) == []
    sources = [{"dataset_name": str(tmp_path / name)} for name in ("agreed", "escalated")]
    data = {"kind": "concatenation", "sources": sources}
    assert [row["completion"] for row in curated(data, tmp_path / "all")] == ["2"]


def curated(data, folder, steps=()):
    stage = CurateStage.model_validate({"kind": "curate", "data": data, "steps": [*steps]})
    run_curation(stage, folder, seed=0, progress=lambda done, total: None)
    return rows(folder)
