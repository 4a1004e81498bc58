"""`transformers.Trainer` with llmkd's objective in place of the model's own loss."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.utils.data import Sampler
from transformers.trainer_utils import TrainOutput, has_length

from llmkd.data.rationale import PART_IDS
from llmkd.losses.signals import DenseLogits, LinearHead
from llmkd.models.signals import from_signals
from llmkd.objective import Objective, ObjectiveOutput, trained
from llmkd.progress import say
from llmkd.teachers.protocol import Teacher
from llmkd.training.finite_steps import FiniteSteps
from llmkd.training.last_batch import num_own, without_repeats
from llmkd.training.metrics import StepMetrics
from llmkd.training.sampling import LengthGroupedSampler

MOST_SKIPPED_IN_A_ROW = 10
"""Steps that are skipped in a row before the training stops: the weights are beyond help."""


class DistillTrainer(FiniteSteps):
    """Minimises an `Objective`; everything else is `transformers.Trainer`.

    Args:
        objective: The terms.
        teacher: What the terms compare the student with; None for cross-entropy alone.
        vocab_size: Tokens that student and teacher share; padded rows of the head are cropped.
        lengths: Tokens of each row of the data set; None for a stream.
        term_gradient_steps: Every so many steps, the gradient norm of each term is logged too.
        on_nonfinite_loss: Whether to stop at a loss or gradient that is not finite, or to skip the step.
        **trainer: As for `transformers.Trainer`. Batches are those of `llmkd.data.collate`.
    """

    # The objective divides by the positions of all micro-batches, so the loss is not a mean of one.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        objective: Objective,
        teacher: Teacher | None,
        vocab_size: int,
        lengths: Sequence[int] | None = None,
        term_gradient_steps: int | None = None,
        on_nonfinite_loss: Literal["stop", "skip"] = "stop",
        **trainer: Any,
    ):
        super().__init__(**trainer)
        self.term_gradient_steps = term_gradient_steps
        self.on_nonfinite_loss = on_nonfinite_loss
        self.objective = objective
        self.lengths = lengths
        self.teacher = teacher
        self.vocab_size = vocab_size
        self.step_metrics = StepMetrics()

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in transformers; the metrics go on where the checkpoint left them."""
        if resume_from_checkpoint:
            self.step_metrics.restore(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _run_epoch(self, *args: Any, **arguments: Any) -> None:
        """One pass over the data."""
        # After skipping batches, the sampler of a sharded loader is out of `set_epoch`'s reach.
        set_epoch = getattr(arguments["train_dataloader"], "set_epoch", None)
        if set_epoch is not None:
            set_epoch(arguments["epoch"])
        super()._run_epoch(*args, **arguments)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        if self.args.train_sampling_strategy == "group_by_length" and self.lengths is not None:
            batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps
            return LengthGroupedSampler(self.lengths, batch_size, self.args.seed)
        return super()._get_train_sampler(train_dataset)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor]:
        """The micro-batches of one step, and what the objective divides by: [num_terms + 1]."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches and self.accelerator.gradient_state.end_of_dataloader:
            batches[-1] = self._without_repeats(batches[-1])
        counts = sum(
            self.objective.count_positions(batch["target_ids"], batch.get(PART_IDS))
            for batch in batches
        )
        assert isinstance(counts, Tensor)
        counts = self.accelerator.reduce(counts.to(device), reduction="sum")
        assert isinstance(counts, Tensor)
        every = self.term_gradient_steps
        is_due = every and self.state.global_step % every == 0
        # Once per log line, which has room for one.
        if is_due and batches and not self.step_metrics.latest:
            self.step_metrics.latest = self.term_gradient_norms(batches, counts)
        self.step_metrics.begin_step(counts)
        return batches, counts

    def _without_repeats(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        rows: Any = self.train_dataset
        size, state = self.args.train_batch_size, self.accelerator
        if state.num_processes == 1 or not has_length(rows):
            return batch
        own = num_own(len(rows), size, state.num_processes, state.process_index)
        return without_repeats(batch, own) if own < size else batch

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
        output = self._share(self.objective, model, inputs, num_items_in_batch)
        self.step_metrics.add({"loss": output.loss.detach(), **output.metrics})
        terms = {f"loss/{term.loss.name}" for term in self.objective.terms}
        found = {name: value for name, value in output.metrics.items() if name in terms}
        self.note_loss(output.loss, found, inputs["input_ids"])
        # DDP and DeepSpeed average gradients over ranks; the shares are to be added.
        return output.loss * self.accelerator.num_processes

    def refuse_step(self, problem: str) -> None:
        """Stops, or leaves the step out as the recipe says."""
        if self.on_nonfinite_loss == "stop":
            super().refuse_step(problem)
        self.step_metrics.skip_step()
        if self.step_metrics.num_skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW:
            super().refuse_step(f"{problem}; so it was with {MOST_SKIPPED_IN_A_ROW} steps in a row")
        if self.is_world_process_zero():
            say(f"{problem}; the step is skipped")

    def advice(self) -> str:
        """With the key that skips such steps, where there is something to skip."""
        may_skip = self.on_nonfinite_loss == "stop" and not self.is_deepspeed_enabled
        return super().advice() + (", or write on_nonfinite_loss: skip" if may_skip else "")

    def _share(
        self, objective: Objective, model: nn.Module, inputs: dict[str, Tensor], counts: Tensor
    ) -> ObjectiveOutput:
        student: Any = self.accelerator.unwrap_model(model)
        kept, part_ids = trained(inputs["target_ids"]), inputs.get(PART_IDS)
        teacher = None if self.teacher is None else self.teacher.signals(inputs, kept)
        outputs: list[ObjectiveOutput] = []

        def compute(of_student: LinearHead | DenseLogits) -> Tensor:
            # The objective knows its own types; the student's forward pass around it is in half
            # precision with `fp16`, which has few digits for a loss.
            with torch.autocast(kept.device.type, enabled=False):
                output = objective(
                    of_student,
                    teacher,
                    inputs["target_ids"][kept],
                    num_positions=counts,
                    step=self.state.global_step,
                    part_ids=None if part_ids is None else part_ids[kept],
                )
            outputs.append(output)
            return output.loss

        loss = from_signals(student, model, inputs, kept, self.vocab_size, compute)
        return ObjectiveOutput(loss, outputs[0].metrics)

    def term_gradient_norms(
        self, batches: list[dict[str, Tensor]], counts: Tensor
    ) -> dict[str, float]:
        """The norm of each term's own gradient, weight included: `grad_norm/TERM`.

        Args:
            batches: The micro-batches of a step.
            counts: Of `get_batch_samples`, [num_terms + 1].
        """
        return {
            f"grad_norm/{term.loss.name}": self.gradient_norm(
                self.objective.only(index), batches, counts[[index, -1]]
            )
            for index, term in enumerate(self.objective.terms)
        }

    def gradient_norm(
        self, objective: Objective, batches: list[dict[str, Tensor]], counts: Tensor
    ) -> float:
        """The norm of an objective's gradient on a step's batches.

        A forward and backward pass of its own. Random state is left as it was, gradients as they
        are between steps: there are none. Dropout is drawn from the seed and the step.
        """
        model, device = self.model_wrapped, self.accelerator.device
        assert model is not None
        model.train()
        # Float16 would round gradients of a mean over many tokens to 0; those of a sum it does not.
        scale = float(counts.max().clamp(min=1))
        devices = [] if device.type == "cpu" else [device]
        with torch.random.fork_rng(devices, device_type=device.type):
            torch.manual_seed(self.args.seed + self.state.global_step)
            for batch in batches:
                with self.compute_loss_context_manager():
                    loss = self._share(objective, model, self._prepare_inputs(batch), counts).loss
                if not loss.requires_grad:
                    continue  # A term over the batch that weighs nothing at this step.
                # DDP averages over ranks what is to be added.
                (loss * scale * self.accelerator.num_processes).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = get_total_norm(gradients)
        model.zero_grad()
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm) / scale

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the objective's metrics to what is logged."""
        if "grad_norm" in logs:
            logs |= self.step_metrics.flush(self.accelerator)
            if self.on_nonfinite_loss == "skip":
                logs["skipped_steps"] = self.step_metrics.num_skipped
        super().log(logs, start_time)

    def collect_state(self) -> None:
        """What was measured since the last log line, over all ranks."""
        self.step_metrics.collect(self.accelerator)

    def save_state_in(self, checkpoint: Path) -> None:
        """What is not logged yet."""
        self.step_metrics.save(checkpoint)
