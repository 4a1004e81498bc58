"""Every optimizer step has a finite loss and a finite gradient on all ranks, or it is not taken."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from llmkd.errors import InputError, LlmkdError
from llmkd.training.ranks import any_rank, raise_once
from llmkd.training.whole_checkpoints import WholeCheckpoints
from llmkd.training.workers import ended_by_parent_only

SHOWN_PLACES, SHOWN_ROWS, SHOWN_LETTERS = 3, 8, 40
"""What a message shows at most: micro-batches, rows of each, letters of each row."""


@dataclass(frozen=True)
class MicroBatch:
    """What one micro-batch of a step gave.

    Args:
        loss: Its share of the loss, detached.
        terms: The parts of it by name.
        row_ids: Tokens that its rows begin with, [B, T].
    """

    loss: Tensor
    terms: Mapping[str, Tensor]
    row_ids: Tensor


class FiniteSteps(WholeCheckpoints):
    """A trainer whose ranks agree, before each optimizer step, whether it can be taken.

    They also agree whether to end after it; see `llmkd.training.interruption`. That is one small sum
    over the ranks, and one wait for the device, per optimizer step: every micro-batch waits for it too,
    as rows are picked by masks.
    """

    is_asked_to_end = False
    """Whether this rank is to end the training after a step."""
    is_ending = False
    """Whether some rank was asked to, as all of them know it."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._micro_batches = list[MicroBatch]()

    def get_train_dataloader(self) -> DataLoader[Any]:
        """As in transformers; its workers are there until the training ends."""
        return ended_by_parent_only(super().get_train_dataloader())

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader[Any]:
        """The same for a validation's, whose workers may stay from one to the next."""
        return ended_by_parent_only(super().get_eval_dataloader(*args, **kwargs))

    def note_loss(self, loss: Tensor, terms: Mapping[str, Tensor], row_ids: Tensor) -> None:
        """To be called with each micro-batch's loss, on every rank, before its gradient is taken.

        Raises:
            LlmkdError: A loss of the step is not finite.
        """
        self._micro_batches.append(MicroBatch(loss.detach(), terms, row_ids))
        # Its engine takes the step within the last backward pass.
        if self.is_deepspeed_enabled and self.accelerator.sync_gradients:
            self._agree(torch.zeros(()))

    def refuse_step(self, problem: str) -> None:
        """Called on all ranks instead of a step.

        Raises:
            LlmkdError: With what was wrong and what to do.
        """
        raise_once(self.accelerator, LlmkdError(f"{problem}; {self.advice()}"))

    def advice(self) -> str:
        """What to do about a step that cannot be taken."""
        return (
            "nothing of this step reached the weights; look at these rows, lower "
            "trainer.learning_rate, or warm up for longer"
        )

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        # The last thing that is called before the optimizer.
        _check_reduced(model)
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if self.is_deepspeed_enabled:
            self._check_taken_step(norm)
        elif self._agree(self._whole(norm)):
            # No optimizer moves a weight without a gradient.
            model.zero_grad()
        return norm

    def _agree(self, norm: Tensor) -> bool:
        """Whether the step is refused."""
        seen, self._micro_batches = self._micro_batches, []
        losses = torch.stack([each.loss for each in seen])
        is_whole = losses.isfinite().all()
        has_norm = norm.to(losses.device).isfinite()
        is_broken, has_no_norm, self.is_ending = any_rank(
            self.accelerator, [~is_whole, ~has_norm, losses.new_tensor(self.is_asked_to_end)]
        )
        if is_broken:
            self.refuse_step(f"{self._at_step()}: the loss is not finite: {self._places(seen)}")
        elif has_no_norm:
            self.refuse_step(
                f"{self._at_step()}: the loss is finite, but the norm of its gradient is {norm.item()}: "
                f"{self._rows(seen[0].row_ids)}"
            )
        return is_broken or has_no_norm

    def _whole(self, norm: Any) -> Tensor:
        """The norm to judge by: that of float16 gradients is now and then infinite, and no harm done."""
        if self.accelerator.scaler is not None:
            return torch.zeros(())
        return norm.full_tensor() if hasattr(norm, "full_tensor") else torch.as_tensor(norm)

    def _check_taken_step(self, norm: Any) -> None:
        if norm is None or self.accelerator.mixed_precision == "fp16":
            return
        # DeepSpeed's own functions say -1 where a norm is not finite.
        if torch.as_tensor(norm).isfinite() and norm >= 0:
            return
        wrapped: Any = self.accelerator.deepspeed_engine_wrapped
        done = (
            "DeepSpeed has taken the step; the checkpoints before it are whole"
            if wrapped.engine.was_step_applied()
            else "DeepSpeed has left the step out, so that nothing of it reached the weights"
        )
        problem = (
            f"{self._at_step()}: the loss is finite, but the norm of its gradient is {norm}; {done}; "
            "lower trainer.learning_rate, or warm up for longer"
        )
        raise_once(self.accelerator, LlmkdError(problem))

    def _at_step(self) -> str:
        """The step under way, numbered as in the log."""
        return f"step {self.state.global_step + 1}"

    def _places(self, seen: list[MicroBatch]) -> str:
        """Where the loss is not finite, over all ranks."""
        places = gather_object(list(self._own_places(seen)))
        more = len(places) - SHOWN_PLACES
        rest = [f"and {more} micro-batches more"] if more > 0 else []
        return "; ".join([*places[:SHOWN_PLACES], *rest])

    def _own_places(self, seen: list[MicroBatch]) -> Iterator[str]:
        for number, each in enumerate(seen, start=1):
            if each.loss.isfinite():
                continue
            named = [
                f"{name} is {value.item()}"
                for name, value in each.terms.items()
                if not value.isfinite()
            ]
            what = ", ".join(named) or f"the weighted sum is {each.loss.item()}"
            rank = self.args.process_index
            place = f"rank {rank}, micro-batch {number} of {len(seen)}"
            yield f"{what} ({place}, {self._rows(each.row_ids)})"

    def _rows(self, row_ids: Tensor) -> str:
        tokenizer = self.processing_class
        assert isinstance(tokenizer, PreTrainedTokenizerBase)
        texts = [
            repr(str(tokenizer.decode(row, skip_special_tokens=True))[:SHOWN_LETTERS])
            for row in row_ids[:SHOWN_ROWS].tolist()
        ]
        more = len(row_ids) - len(texts)
        rest = [f"and {more} more"] if more > 0 else []
        return f"whose rows begin {', '.join([*texts, *rest])}"


def _check_reduced(model: nn.Module) -> None:
    """Refuses a step of DDP in which some weights have no gradient, where it was not to look for such.

    It waits for them in vain, and leaves those that it would have sent along as each process has them.

    Raises:
        InputError: With the key to write.
    """
    if not isinstance(model, DistributedDataParallel) or model.find_unused_parameters:
        return
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if unused:
        raise InputError(
            f"trainer.ddp_find_unused_parameters: {len(unused)} weights have no gradient, such as "
            f"{unused[0].removeprefix('module.')}, for the data never reaches them, or a layer was dropped; "
            "write true"
        )
