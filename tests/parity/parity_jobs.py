"""Runs several recipes one after the other in the processes of one launcher: FILE of [recipe, ...]."""

import json
import os
import sys
from pathlib import Path

import torch.distributed as dist
from accelerate import Accelerator
from torch import nn

from llmkd import run
from llmkd.processes import die_with
from llmkd.recipe import load


def taken_apart_before(prepare):
    """ZeRO-3 is given no student that is whole: its engine would bring all of it to the device."""

    def check(accelerator, *models):
        students = [each for each in models if isinstance(each, nn.Module)]
        if accelerator.state.deepspeed_plugin.zero_stage == 3 and students:
            assert all(weight.numel() == 0 for weight in students[0].parameters())
        return prepare(accelerator, *models)

    return check


if __name__ == "__main__":
    die_with(os.getppid())
    Accelerator._prepare_deepspeed = taken_apart_before(Accelerator._prepare_deepspeed)
    # The processes stay connected from one recipe to the next.
    Accelerator.end_training = lambda self: None
    for recipe in json.loads(Path(sys.argv[1]).read_text()):
        run(load(recipe))
    # With communication threads alive, a process may be aborted by the C++ runtime as it ends.
    dist.barrier()
    dist.destroy_process_group()
