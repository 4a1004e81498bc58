"""What a resumed KDRL training shares with an uninterrupted one."""

import shutil

import torch

CONFIG = {
    "max_steps": 4,
    "optim": "adamw_torch",
    "learning_rate": 1e-2,
    "save_strategy": "steps",
    "save_steps": 2,
}


def test_between_generations_it_goes_on_to_the_same_bits(trained, distillation, tmp_path):
    kd = distillation(mask="response")
    whole = trained(kd, **CONFIG)
    shutil.rmtree(tmp_path / "checkpoint-4")
    cut = trained(kd, resume=tmp_path / "checkpoint-2", **CONFIG)
    assert len(cut.seen) == 2
    for mine, other in zip(cut.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, other)
