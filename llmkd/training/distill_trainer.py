"""`transformers.Trainer` with llmkd's objective in place of the model's own loss."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from llmkd.models.head import hidden_states, linear_head
from llmkd.objective import Objective, trained
from llmkd.teachers.protocol import Teacher
from llmkd.training.checkpoints import STAGING, publish, removed_on_failure, retire
from llmkd.training.metrics import StepMetrics


class DistillTrainer(Trainer):
    """Minimises an `Objective`; everything else is `transformers.Trainer`.

    Args:
        objective: The terms.
        teacher: What the terms compare the student with; None for cross-entropy alone.
        vocab_size: Tokens that student and teacher share; padded rows of the head are cropped.
        **trainer: As for `transformers.Trainer`. Batches hold `input_ids`, `attention_mask` and
            `target_ids`, where position t predicts `target_ids[:, t]`.
    """

    # The objective divides by the positions of all micro-batches, so the loss is not a mean of one.
    loss_is_scaled_for_ga = True

    def __init__(
        self, *, objective: Objective, teacher: Teacher | None, vocab_size: int, **trainer: Any
    ):
        super().__init__(**trainer)
        self.objective = objective
        self.teacher = teacher
        self.vocab_size = vocab_size
        self.step_metrics = StepMetrics()
        self._checkpoint_root: Path | None = None

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in transformers; the metrics go on where the checkpoint left them."""
        if resume_from_checkpoint:
            self.step_metrics.restore(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _run_epoch(self, *args: Any, **arguments: Any) -> None:
        """One pass over the data, or none where the checkpoint was the last one."""
        # Trainer looks at `max_steps` only after a step, so it would take one more.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        # After skipping batches, the sampler of a sharded loader is out of `set_epoch`'s reach.
        set_epoch = getattr(arguments["train_dataloader"], "set_epoch", None)
        if set_epoch is not None:
            set_epoch(arguments["epoch"])
        super()._run_epoch(*args, **arguments)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor]:
        """The micro-batches of one step, and what the objective divides by: [num_terms]."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = sum(self.objective.count_positions(batch["target_ids"]) for batch in batches)
        assert isinstance(counts, Tensor)
        counts = self.accelerator.reduce(counts.to(device), reduction="sum")
        assert isinstance(counts, Tensor)
        self.step_metrics.begin_step(counts)
        return batches, counts

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """This micro-batch's share of the objective; `num_items_in_batch` is per term."""
        assert isinstance(num_items_in_batch, Tensor), "only training steps are counted"
        assert not return_outputs
        student: Any = self.accelerator.unwrap_model(model)
        kept = trained(inputs["target_ids"])
        hidden = hidden_states(student, model, inputs)[kept]
        output = self.objective(
            linear_head(student, hidden, self.vocab_size),
            None if self.teacher is None else self.teacher.signals(inputs, kept),
            inputs["target_ids"][kept],
            num_positions=num_items_in_batch,
            step=self.state.global_step,
        )
        self.step_metrics.add({"loss": output.loss.detach(), **output.metrics})
        # DDP and DeepSpeed average gradients over ranks; the shares are to be added.
        return output.loss * self.accelerator.num_processes

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the objective's metrics to what is logged."""
        if "grad_norm" in logs:
            logs |= self.step_metrics.flush(self.accelerator)
        super().log(logs, start_time)

    def _get_output_dir(self, trial: Any) -> str:
        # Checkpoints are written in the staging folder while `_checkpoint_root` names it.
        return (
            str(self._checkpoint_root) if self._checkpoint_root else super()._get_output_dir(trial)
        )

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes the checkpoint aside, then gives it its name by one rename."""
        folder = Path(super()._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staging = folder / STAGING
        self.step_metrics.collect(self.accelerator)
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
                self.step_metrics.save(staging / name)
                publish(staging / name, folder / name)
        if self.args.should_save:
            retire(folder, keep=self.args.save_total_limit)
        self.accelerator.wait_for_everyone()
