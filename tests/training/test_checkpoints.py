"""Checkpoints are whole or absent, whenever the process dies."""

import pytest

from llmkd.training.checkpoints import STAGING, checkpoint_steps, newest_checkpoint, publish, retire
from llmkd.training.train import build_trainer


def make(folder, *steps):
    for step in steps:
        (folder / f"checkpoint-{step}").mkdir(parents=True)
        (folder / f"checkpoint-{step}" / "weights").write_text(str(step))


def test_the_newest_checkpoint_is_the_one_with_the_most_steps(tmp_path):
    assert newest_checkpoint(tmp_path / "none") is None
    make(tmp_path, 9, 10, 100)
    (tmp_path / STAGING / "checkpoint-200").mkdir(parents=True)
    (tmp_path / "checkpoint-x").mkdir()
    assert list(checkpoint_steps(tmp_path)) == [9, 10, 100]
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-100"


def test_publishing_moves_the_whole_folder_and_replaces_an_older_one(tmp_path):
    make(tmp_path, 5)
    staged = tmp_path / STAGING / "checkpoint-5"
    (staged / "deep").mkdir(parents=True)
    (staged / "deep" / "weights").write_text("new")
    publish(staged, tmp_path / "checkpoint-5")
    assert not staged.exists()
    assert [p.name for p in (tmp_path / "checkpoint-5").rglob("*")] == ["deep", "weights"]


def test_publishing_again_after_a_crash_between_its_renames(tmp_path):
    make(tmp_path / ".model.replaced", 1)
    make(tmp_path / "model", 2)
    make(tmp_path / ".model", 3)
    publish(tmp_path / ".model", tmp_path / "model")
    assert list(checkpoint_steps(tmp_path / "model")) == [3]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_retiring_keeps_the_newest(tmp_path):
    make(tmp_path, 1, 2, 3, 10)
    retire(tmp_path, keep=2)
    assert list(checkpoint_steps(tmp_path)) == [3, 10]
    retire(tmp_path, keep=None)
    assert list(checkpoint_steps(tmp_path)) == [3, 10]


@pytest.mark.parametrize("moment", ["_save_optimizer_and_scheduler", "_save_rng_state"])
def test_a_crash_while_saving_leaves_no_half_checkpoint(train_stage, tmp_path, monkeypatch, moment):
    trainer = build_trainer(train_stage(), tmp_path, seed=0)
    save = getattr(trainer, moment)

    def crash(folder):
        assert STAGING in folder, "nothing is written under the checkpoint's own name"
        if folder.endswith("checkpoint-4"):
            raise OSError("disk full")
        save(folder)

    monkeypatch.setattr(trainer, moment, crash)
    with pytest.raises(OSError, match="disk full"):
        trainer.train()
    assert list(checkpoint_steps(tmp_path / "checkpoints")) == [2]
    assert not (tmp_path / "checkpoints" / STAGING).exists(), "it would only take up room"
