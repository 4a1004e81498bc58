"""A student that learns from what its teacher said once, against the same teacher beside it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llmkd.errors import InputError
from llmkd.losses.signals import SampledLogits, TopKLogits
from llmkd.objective import trained
from llmkd.recipe.schema import GenerateStage, ScoreStage
from llmkd.recipe.teacher_data import TransformersEngine
from llmkd.teacher_data.capture import run_capture
from llmkd.teacher_data.places import open_store, store_folder
from llmkd.teacher_data.transformers_teacher import TransformersTeacher
from llmkd.teachers.captured import documents_of, places
from llmkd.training import teachers
from llmkd.training.train import build_trainer, run_train

WHOLE = {"top_k": 1000, "precision": "float32"}


def silent(done, total, **figures):
    """No progress."""


@pytest.fixture
def train_stage(train_stage):
    """Terms that a store at temperature 1 serves."""
    losses = [{"kind": "forward_kl"}, {"kind": "cross_entropy", "weight": 0.1}]
    return lambda trainer=None, **parts: train_stage(trainer, **{"losses": losses, **parts})


@pytest.fixture
def captured(tmp_path, teacher_folder, sums):
    """Makes a store of the sums in a file, scored by the teacher."""

    def make(kept=WHOLE, name="store", teacher=teacher_folder, **data):
        stage = ScoreStage.model_validate(
            {
                "kind": "score",
                "teacher": {"model_name_or_path": str(teacher)},
                "data": {"dataset_name": str(sums()), "max_length": 64, **data},
                "engine": {"batch_size": 7},
                "capture": kept,
                "shard_size": 16,
            }
        )
        run_capture(stage, tmp_path / name, seed=0, progress=silent)
        return str(tmp_path / name)

    return make


@pytest.fixture
def written(tmp_path, teacher_folder):
    """Makes a store of what the teacher writes."""

    def make(kept=WHOLE, **generation):
        stage = GenerateStage.model_validate(
            {
                "kind": "generate",
                "teacher": {"model_name_or_path": str(teacher_folder)},
                "data": {"kind": "task", "num_examples": 60, "digits": 2},
                "engine": {"batch_size": 16},
                "generation": {"max_completion_length": 40, **generation},
                "capture": kept,
                "shard_size": 16,
            }
        )
        run_capture(stage, tmp_path / "written", seed=0, progress=silent)
        return str(tmp_path / "written")

    return make


def first_step(trainer):
    """Loss, metrics and gradients of the first optimizer step's batches."""
    loader = iter(trainer.get_train_dataloader())
    batches, counts = trainer.get_batch_samples(
        loader, trainer.args.gradient_accumulation_steps, "cpu"
    )
    losses = [trainer.compute_loss(trainer.model, b, num_items_in_batch=counts) for b in batches]
    for loss in losses:
        loss.backward()
    metrics = trainer.step_metrics.flush(trainer.accelerator)
    return metrics, {name: p.grad.clone() for name, p in trainer.model.named_parameters()}


def assert_same_step(ours, theirs, rtol=1e-4):
    (metrics, gradients), (expected_metrics, expected) = ours, theirs
    for name in ("loss", "teacher_nll", "kl"):
        assert metrics[name] == pytest.approx(expected_metrics[name], rel=rtol)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=rtol, atol=1e-6)


LOSSES = [[{"kind": kind}] for kind in ("forward_kl", "reverse_kl", "jsd", "skew_forward_kl")]


@pytest.mark.parametrize("losses", LOSSES, ids=lambda losses: losses[0]["kind"])
@pytest.mark.parametrize("packing", [False, True])
def test_the_whole_vocabulary_gives_the_loss_and_gradient_of_the_teacher_itself(
    train_stage, captured, sums, tmp_path, losses, packing
):
    data = {"dataset_name": str(sums()), "max_length": 64, "packing": packing}
    store = captured()
    results = [
        first_step(build_trainer(train_stage(data=data, losses=losses, **more), tmp_path, seed=0))
        for more in ({"teacher": {"kind": "store", "path": store}}, {})
    ]
    assert_same_step(*results)


def test_what_a_seq2seq_teacher_said_gives_its_loss_and_gradient(
    train_stage, captured, sums, tiny_seq2seq, tokenizer, tmp_path
):
    teacher = tmp_path / "t5"
    tiny_seq2seq(tokenizer, "t5").save_pretrained(teacher)
    tokenizer.save_pretrained(teacher)
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    student = {"kind": "scratch", "config": {"model_type": "t5", "dropout_rate": 0.0, **shape}}
    store = captured(teacher=teacher)
    parts = {"student": student, "data": {"dataset_name": str(sums()), "max_length": 64}}
    results = [
        first_step(build_trainer(train_stage(teacher=source, **parts), tmp_path, seed=0))
        for source in ({"kind": "store", "path": store}, {"model_name_or_path": str(teacher)})
    ]
    assert_same_step(*results)


def test_the_stores_own_rows_are_trained_on_token_by_token(train_stage, written, tmp_path):
    path = written()
    parts = {"data": {"kind": "store", "path": path}, "teacher": {"kind": "store", "path": path}}
    trainer = build_trainer(train_stage(**parts), tmp_path, seed=0)
    stored = {
        tuple(row.token_ids.tolist())
        for row in open_store(path)
        if row.finish_reason == "stop" and row.completion
    }
    assert {tuple(row["input_ids"]) for row in trainer.train_dataset} == stored
    assert stored
    teacher = train_stage().teacher.model_dump()
    theirs = build_trainer(train_stage(**{**parts, "teacher": teacher}), tmp_path, seed=0)
    assert_same_step(first_step(trainer), first_step(theirs))


@pytest.mark.parametrize("kept", [{"top_k": 5}, {"kind": "sampled", "num_samples": 9}])
@pytest.mark.parametrize("packing", [False, True])
def test_every_position_gets_what_was_said_of_its_own_token(
    train_stage, captured, sums, tmp_path, kept, packing
):
    path = captured(kept)
    data = {"dataset_name": str(sums()), "max_length": 64, "packing": packing}
    stage = train_stage(data=data, teacher={"kind": "store", "path": path})
    trainer = build_trainer(stage, tmp_path, seed=0)
    rows = {tuple(row.token_ids.tolist()): row for row in open_store(path)}
    batch = next(iter(trainer.get_train_dataloader()))
    signals = trainer.teacher.signals(batch, trained(batch["target_ids"]))
    assert isinstance(signals, TopKLogits if "top_k" in kept else SampledLogits)
    position = 0
    for ids, targets in zip(batch["input_ids"], batch["target_ids"], strict=True):
        documents = [d.tolist() for d in torch.split(ids, _lengths(ids))]
        for document in documents:
            if document[0] != ids[0]:
                continue  # Padding.
            row = rows[tuple(document)]
            for place, token in enumerate(document[row.spans[0] :]):
                assert signals.label_log_prob[position] == row.positions.label_log_prob[place]
                num_kept = row.positions.token_ids.shape[-1]
                found = signals.token_ids[position, :num_kept].tolist()
                assert found == row.positions.token_ids[place].tolist()
                assert token in targets
                position += 1
    assert position == len(signals.label_log_prob)
    if isinstance(signals, SampledLogits):
        torch.testing.assert_close(signals.weights.sum(-1), torch.ones(position))


def _lengths(ids):
    """Documents of a padded row: each begins with the begin-of-text token and ends with its last."""
    starts = (ids == ids[0]).nonzero().flatten().tolist()
    ends = [*starts[1:], len(ids)]
    lengths = [end - start for start, end in zip(starts, ends, strict=True)]
    last = ids[starts[-1] :]
    kept = int((last == 2).nonzero()[0]) + 1
    return [*lengths[:-1], kept, len(last) - kept] if kept < len(last) else lengths


def test_cut_rows_take_the_first_of_what_was_said(train_stage, captured, sums, tmp_path):
    path = captured()
    parts = {"teacher": {"kind": "store", "path": path}}
    data = {"dataset_name": str(sums()), "max_length": 12}
    results = [
        first_step(build_trainer(train_stage(data=data, **more), tmp_path, seed=0))
        for more in (parts, {})
    ]
    assert_same_step(*results)


def test_a_row_that_the_store_lacks_is_named_before_training(train_stage, captured, sums, tmp_path):
    path = captured()
    more = tmp_path / "more.jsonl"
    rows = [json.dumps({"prompt": f"{n}+1=", "completion": str(n + 1)}) for n in range(5)]
    more.write_text(Path(sums()).read_text() + "\n".join(rows))
    others = {"dataset_name": str(more), "max_length": 64}
    stage = train_stage(data=others, teacher={"kind": "store", "path": path})
    with pytest.raises(
        InputError, match=r"teacher\.path: the store lacks 5 of 45 examples, first number 41"
    ):
        build_trainer(stage, tmp_path, seed=0)


def test_a_store_of_shorter_rows_is_refused_before_training(train_stage, captured, sums, tmp_path):
    path = captured(max_length=12)
    data = {"dataset_name": str(sums()), "max_length": 64}
    stage = train_stage(data=data, teacher={"kind": "store", "path": path})
    with pytest.raises(InputError, match=r"the store has fewer tokens of \d+ of 40 examples"):
        build_trainer(stage, tmp_path, seed=0)


@pytest.mark.parametrize(
    ("losses", "kept", "message"),
    [
        (
            [{"kind": "todi"}],
            WHOLE,
            r"losses\.0\.kind: todi needs more.*write kind: forward_kl, re",
        ),
        (
            [{"kind": "reverse_kl"}],
            {"kind": "sampled"},
            r"losses\.0\.kind: reverse_kl needs more.*drawn tokens.*write kind: forward_kl, or",
        ),
        (
            [{"kind": "forward_kl", "temperature": 2.0}],
            WHOLE,
            r"losses\.0\.temperature: 2, and the teacher was captured at 1.*temperature: 1",
        ),
        (
            [{"kind": "forward_kl"}, {"kind": "sinkhorn"}],
            WHOLE,
            r"losses\.1\.kind: sinkhorn needs batches of whole distributions",
        ),
    ],
)
def test_terms_that_the_store_does_not_serve_are_refused_with_both_ways_out(
    train_stage, captured, sums, tmp_path, losses, kept, message
):
    stage = train_stage(
        data={"dataset_name": str(sums()), "max_length": 64},
        losses=losses,
        teacher={"kind": "store", "path": captured(kept)},
    )
    with pytest.raises(InputError, match=message):
        build_trainer(stage, tmp_path, seed=0)


def test_text_alone_is_no_teacher(train_stage, written, tmp_path):
    path = written(None)
    parts = {"data": {"kind": "store", "path": path}, "teacher": {"kind": "store", "path": path}}
    with pytest.raises(InputError, match=r"none of its log-probabilities; write capture:"):
        build_trainer(train_stage(**parts), tmp_path, seed=0)


def test_another_tokenizer_is_refused(train_stage, captured, sums, chat_tokenizer, tmp_path):
    chat_tokenizer.save_pretrained(tmp_path / "other")
    student = {
        **train_stage().student.model_dump(),
        "tokenizer_name_or_path": str(tmp_path / "other"),
    }
    stage = train_stage(
        student=student,
        data={"dataset_name": str(sums()), "max_length": 64},
        teacher={"kind": "store", "path": captured()},
    )
    with pytest.raises(InputError, match="student and teacher have different tokenizers"):
        build_trainer(stage, tmp_path, seed=0)


@pytest.mark.parametrize("kept", [{"top_k": 5}, {"kind": "sampled", "num_samples": 9}])
def test_an_interrupted_training_ends_in_the_same_bits(train_stage, captured, sums, tmp_path, kept):
    data = {"dataset_name": str(sums()), "max_length": 64, "packing": True}
    parts = {"data": data, "teacher": {"kind": "store", "path": captured(kept)}}
    settings = {"max_steps": 6, "save_steps": 2, "dataloader_num_workers": 1}
    run_train(train_stage(settings, **parts), tmp_path / "whole", name="s", seed=0)
    run_train(train_stage(settings, **parts), tmp_path / "cut", name="s", seed=0)
    back = str(tmp_path / "cut" / "checkpoints" / "checkpoint-4")
    run_train(train_stage(settings, **parts, resume=back), tmp_path / "cut", name="s", seed=0)
    whole, cut = (load_file(tmp_path / n / "model" / "model.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    card = (tmp_path / "whole" / "model" / "README.md").read_text()
    assert re.search(r"distilled from `.*teacher", card)
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    assert all(np.isfinite(json.loads(line)["loss"]) for line in lines)


def test_a_damaged_store_is_named_while_training(train_stage, captured, sums, tmp_path):
    path = captured()
    (shard, *_) = sorted((store_folder(path) / "shards").glob("*.arrow"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    stage = train_stage(
        {"max_steps": 20},
        data={"dataset_name": str(sums()), "max_length": 64},
        teacher={"kind": "store", "path": path},
    )
    with pytest.raises(Exception, match=rf"{shard.name}.*llmkd cache repair"):
        run_train(stage, tmp_path / "run", name="s", seed=0)


def test_places_of_spans_in_spans():
    assert places([2, 5, 8, 10], [3, 5, 8, 9]).tolist() == [1, 2, 3]
    assert places([2, 5], [2, 5]).tolist() == [0, 1, 2]
    assert places([2, 5], [4, 6]) is None
    assert places([2, 5, 8, 10], [5, 6]) is None


def test_documents_of_a_packed_row():
    row = {
        "input_ids": [1, 5, 2, 1, 6, 7, 2],
        "trained_spans": [1, 3, 4, 5, 6, 7],
        "document_lengths": [3, 4],
        "tokens_keys": [b"a", b"b"],
    }
    found = [(list(d.token_ids), list(d.spans), d.tokens_key) for d in documents_of(row)]
    assert found == [([1, 5, 2], [1, 3], b"a"), ([1, 6, 7, 2], [1, 2, 3, 4], b"b")]


@pytest.mark.parametrize("packing", [False, True])
def test_a_server_that_is_asked_for_every_token_gives_the_loss_of_the_teacher_itself(
    train_stage, teacher_folder, sums, tmp_path, monkeypatch, packing
):
    def transformers_engine(source, settings, generation, kept, *, key):
        assert key == "teacher.server"
        return TransformersTeacher(source, TransformersEngine(), generation, kept)

    # In place of HTTP, which has tests of its own.
    monkeypatch.setattr(teachers, "ServedVLLM", transformers_engine)
    data = {"dataset_name": sums(), "max_length": 64, "packing": packing}
    served = {
        "kind": "server",
        "model_name_or_path": str(teacher_folder),
        "server": {"kind": "server", "base_url": "http://localhost:8000"},
        "top_k": 1000,
    }
    results = [
        first_step(build_trainer(train_stage(data=data, **more), tmp_path, seed=0))
        for more in ({"teacher": served}, {})
    ]
    assert_same_step(*results)
    stage = train_stage({"dataloader_num_workers": 1}, data=data, teacher=served)
    with pytest.raises(
        InputError, match=r"trainer\.dataloader_num_workers: a server is asked from"
    ):
        build_trainer(stage, tmp_path, seed=0)
