"""What every trainer of llmkd does about checkpoints: they are whole, or absent."""

import shutil
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from llmkd.training.checkpoints import STAGING, publish, removed_on_failure, retire
from llmkd.training.checksums import write_checksums
from llmkd.training.engine import deepspeed_agrees, write_engine
from llmkd.training.sharding import (
    keep_precision,
    send_in_pieces,
    shard_on_a_cpu,
    share_embeddings,
    take_apart,
    whole_weights,
)


class WholeCheckpoints(Trainer):
    """A `Trainer` that writes a checkpoint aside, then gives it its name by one rename.

    To stand before the trainer whose checkpoints they are: `class Mine(WholeCheckpoints, Theirs)`.
    """

    _checkpoint_root: Path | None = None

    def create_accelerator_and_postprocess(self) -> None:
        """As in transformers; FSDP2 is FSDP2 on a CPU too."""
        with deepspeed_agrees():
            super().create_accelerator_and_postprocess()
        shard_on_a_cpu(self)
        send_in_pieces(self)
        if self.is_fsdp_enabled:
            keep_precision(self)
            student: Any = self.model
            share_embeddings(student)

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in transformers; a student that is to be in parts never is on a device whole."""
        take_apart(self)
        with deepspeed_agrees():
            return super().train(*args, **kwargs)

    def collect_state(self) -> None:
        """Called on every rank before a checkpoint is written."""

    def save_state_in(self, checkpoint: Path) -> None:
        """Called on the rank that saves, to write what else belongs in the checkpoint."""

    def _run_epoch(self, *args: Any, **arguments: Any) -> None:
        """One pass over the data, or none where the checkpoint was the last one."""
        # Trainer looks at `max_steps` only after a step, so it would take one more.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **arguments)

    def _get_output_dir(self, trial: Any) -> str:
        # Checkpoints are written in the staging folder while `_checkpoint_root` names it.
        return (
            str(self._checkpoint_root) if self._checkpoint_root else super()._get_output_dir(trial)
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in transformers, but whole weights whatever a launcher's file says, and tied ones once."""
        plugin = self.accelerator.state.deepspeed_plugin
        if self.is_fsdp_enabled:
            self._save(output_dir, state_dict=whole_weights(self))
        elif plugin is not None and plugin.zero_stage < 3:
            self._save(output_dir)
        else:
            super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(super()._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staging = folder / STAGING
        self.collect_state()
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        with removed_on_failure(staging):
            self._checkpoint_root = staging
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._checkpoint_root = None
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self.save_state_in(staging / name)
                write_engine(self, staging / name)
                write_checksums(staging / name)
                publish(staging / name, folder / name)
        if self.args.should_save:
            retire(folder, keep=self.args.save_total_limit)
        self.accelerator.wait_for_everyone()
