"""One rank of trainings in which something goes wrong on one rank only: `fault_ranks.py FOLDER` with
`stage.json` in it.

Leaves `rank-N.json` there: how each of them ended on this rank.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

from accelerate import Accelerator

from llmkd.errors import LlmkdError
from llmkd.recipe.schema import TrainStage
from llmkd.training.distill_trainer import DistillTrainer
from llmkd.training.train import run_train

RANK = int(os.environ["RANK"])
share, end_training = DistillTrainer._share, Accelerator.end_training


def run(folder, **parts):
    """How a training ends: `done`, a message, or an exit status."""
    stage = TrainStage.model_validate(
        json.loads((folder.parent / "stage.json").read_text()) | parts
    )
    try:
        run_train(stage, folder, name="s", seed=0)
    except LlmkdError as error:
        return str(error)
    except SystemExit as end:
        return end.code
    return "done"


def on_rank_1(step, do):
    """Has `do` change the loss of the second micro-batch of one step on rank 1."""
    calls = []

    def spoiled(self, objective, model, inputs, counts):
        output = share(self, objective, model, inputs, counts)
        if RANK == 1 and self.state.global_step + 1 == step:
            calls.append(step)
            if len(calls) == 2:
                return type(output)(do(output.loss), output.metrics)
        return output

    DistillTrainer._share = spoiled


def terminate(loss):
    os.kill(os.getpid(), signal.SIGTERM)
    return loss


def main(folder: Path) -> None:
    # One group of processes does all of them.
    Accelerator.end_training = lambda self: None
    ended = {"whole": run(folder / "whole")}

    on_rank_1(3, terminate)
    ended["terminated"] = run(folder / "terminated")
    DistillTrainer._share = share
    ended["terminated, resumed"] = run(folder / "terminated")

    on_rank_1(4, lambda loss: loss * float("nan"))
    ended["stopped"] = run(folder / "stopped")
    on_rank_1(4, lambda loss: loss * float("nan"))
    ended["skipped"] = run(folder / "skipped", on_nonfinite_loss="skip")
    DistillTrainer._share = share

    checkpoint = folder / "skipped" / "checkpoints" / "checkpoint-6"
    if RANK == 0:
        (checkpoint / "rng_state_1.pth").write_bytes(b"")
        shutil.copy(folder / "skipped" / "metrics.jsonl", folder)
    Accelerator().wait_for_everyone()
    ended["refused"] = run(folder / "skipped", resume=str(checkpoint))
    ended["set aside"] = run(folder / "skipped", on_nonfinite_loss="skip")
    (folder / f"rank-{RANK}.json").write_text(json.dumps(ended))
    Accelerator().wait_for_everyone()
    end_training(Accelerator())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
