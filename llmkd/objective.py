r"""The objective: the one place for masks, weights, temperature squared and the division.

.. math:: L = \sum_i w_i(\mathrm{step}) \sum_t m_{i,t}\, \ell_{i,t} / N_i

over all positions t of the global batch, where N_i counts the positions that mask m_i keeps over
all ranks and accumulation steps: the trained ones, or those of them in one part of the data. Because N_i is global, cutting a batch into micro-batches or ranks
changes neither loss nor gradient.

Shapes: B batch, T time, K terms, D diagnostics, N kept positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmkd.losses.blocks import refusal
from llmkd.losses.closed_form import FORWARD_KL, NUM_CLAMPED, TEACHER_MSE, TEACHER_NLL
from llmkd.losses.dense import divergence_from_logits
from llmkd.losses.divergences import IGNORED_ID
from llmkd.losses.linear_head import divergence_from_hidden
from llmkd.losses.signals import DenseLogits, LinearHead, Signals, logits_of
from llmkd.losses.terms import BatchTerm, HeadOutput, HeadTerm
from llmkd.schedules import WeightSchedule


@dataclass(frozen=True)
class Term:
    """A loss with its weight.

    Args:
        loss: What is computed; its name is the metric's.
        weight: The schedule w_i.
        scale: A constant factor: temperature squared, or 1.
        part: Which of a batch's `part_ids` the mask m_i keeps; None keeps every trained position.
    """

    loss: HeadTerm | BatchTerm
    weight: WeightSchedule
    scale: float = 1.0
    part: int | None = None


@dataclass(frozen=True)
class ObjectiveOutput:
    """One micro-batch's share of the objective.

    Args:
        loss: Scalar with its gradient; the shares of all micro-batches and ranks add up to L.
        metrics: Name to detached scalar; the shares add up to means over the global batch.
    """

    loss: Tensor
    metrics: dict[str, Tensor]


class Objective:
    """Weighted terms over the trained positions of a batch.

    A `BatchTerm` compares the positions of one micro-batch with each other, so it is the one kind
    whose value depends on how a batch is cut: its values are averaged, by the positions of each.

    Args:
        terms: At least one, with different names.
        has_teacher: Whether `__call__` gets a teacher; then `teacher_nll` and `kl` (forward KL at
            temperature 1) are measured beside the terms, of a regression `teacher_mse`.
        is_regression: Whether the targets are numbers, and each model has one output.
        compute_dtype: Type of the heads' matrix products; None takes the hidden states' own.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        *,
        has_teacher: bool,
        is_regression: bool = False,
        compute_dtype: torch.dtype | None = None,
    ):
        self.terms = list(terms)
        self.compute_dtype = compute_dtype
        self.diagnostics = _diagnostics(self.terms, is_regression) if has_teacher else []
        self._term_of = {f"num_clamped/{x.loss.name}": i for i, x in enumerate(self.terms)}

    def only(self, index: int) -> "Objective":
        """The objective of one term, without diagnostics."""
        return Objective([self.terms[index]], has_teacher=False, compute_dtype=self.compute_dtype)

    def count_positions(self, target_ids: Tensor, part_ids: Tensor | None = None) -> Tensor:
        """N_i of one micro-batch: the positions that each term's mask keeps, then all, [K + 1].

        Args:
            target_ids: As `llmkd.data.collate` makes them, [B, T], or [B] of a classifier.
            part_ids: Which part of the data each is of, same shape; None where it has no parts.
        """
        kept = trained(target_ids)
        return torch.stack([*(m.sum() for m in self._masks(kept, part_ids)), kept.sum()])

    def _masks(self, kept: Tensor, part_ids: Tensor | None) -> list[Tensor]:
        """Which of the kept positions each term is of."""
        masks = list[Tensor]()
        for term in self.terms:
            assert term.part is None or part_ids is not None, "refused by the recipe"
            masks.append(kept if term.part is None else kept & (part_ids == term.part))
        return masks

    def __call__(
        self,
        student: LinearHead | DenseLogits,
        teacher: Signals | None,
        target_ids: Tensor,
        *,
        num_positions: Tensor,
        step: int,
        part_ids: Tensor | None = None,
    ) -> ObjectiveOutput:
        """One micro-batch's share of the loss and of the metrics.

        Args:
            student: Of the N kept positions; gradients flow to logits, or hidden states and weights.
            teacher: Of the same positions.
            target_ids: The tokens that follow, or the labels, [N]; of a regression numbers.
            num_positions: Of `count_positions`, summed over all micro-batches and ranks of the step,
                [K + 1].
            step: Optimizer step, for the schedules, and for what is drawn of a micro-batch.
            part_ids: Which part of the data each position is of, [N]; None where it has no parts.
        """
        share = num_positions.clamp(min=1).reciprocal().float()
        shares = share[:-1]
        factors = shares.new_tensor([term.weight(step) * term.scale for term in self.terms])
        weights, masks = factors * shares, self._masks(trained(target_ids), part_ids)
        losses, metrics = list[Tensor](), dict[str, Tensor]()
        is_pointwise = [isinstance(term.loss, HeadTerm) for term in self.terms]
        if any(is_pointwise):
            of_terms = torch.stack(masks)[is_pointwise]
            # A stored teacher may not be able to give all diagnostics.
            diagnostics = [x for x in self.diagnostics if refusal(x, teacher) is None]
            output = self._pointwise(
                student, teacher, target_ids, weights[is_pointwise, None] * of_terms, diagnostics
            )
            losses.append(output.loss)
            metrics = self._metrics(output, shares[is_pointwise], of_terms)
            for diagnostic, values in zip(diagnostics, output.diagnostics, strict=True):
                term = self._term_of.get(diagnostic.name)
                kept = values if term is None else torch.where(masks[term], values, 0)
                metrics[diagnostic.name] = kept.sum() * share[-1 if term is None else term]
        for term, weight, part, mask in zip(self.terms, weights, shares, masks, strict=True):
            if isinstance(term.loss, BatchTerm):
                rows = mask.nonzero().flatten()
                with torch.set_grad_enabled(torch.is_grad_enabled() and bool(term.weight(step))):
                    value, found = self._of_batch(
                        term.loss, student, teacher, target_ids, rows, step
                    )
                losses.append(weight * len(rows) * value)
                found = {f"loss/{term.loss.name}": value.detach(), **found}
                metrics |= {name: x * len(rows) * part for name, x in found.items()}
        return ObjectiveOutput(torch.stack(losses).sum(), metrics)

    def _metrics(self, output: HeadOutput, shares: Tensor, masks: Tensor) -> dict[str, Tensor]:
        names = [f"loss/{term.loss.name}" for term in self.terms if isinstance(term.loss, HeadTerm)]
        # Not a plain product with the mask: a value left out may be inf.
        values = torch.where(masks, output.values, 0).sum(-1) * shares
        return dict(zip(names, values, strict=True))

    def _pointwise(
        self,
        student: LinearHead | DenseLogits,
        teacher: Signals | None,
        target_ids: Tensor,
        position_weights: Tensor,
        diagnostics: Sequence[HeadTerm],
    ) -> HeadOutput:
        terms = [term.loss for term in self.terms if isinstance(term.loss, HeadTerm)]
        if isinstance(student, DenseLogits):
            assert teacher is None or isinstance(teacher, DenseLogits), "both are classifiers"
            return divergence_from_logits(
                student, teacher, target_ids, terms, position_weights, diagnostics=diagnostics
            )
        assert not isinstance(teacher, DenseLogits), "both are language models"
        return divergence_from_hidden(
            student,
            teacher,
            target_ids,
            terms,
            position_weights,
            diagnostics=diagnostics,
            compute_dtype=self.compute_dtype,
        )

    def _of_batch(
        self,
        term: BatchTerm,
        student: LinearHead | DenseLogits,
        teacher: Signals | None,
        target_ids: Tensor,
        rows: Tensor,
        step: int,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(teacher, LinearHead | DenseLogits), "refused by the recipe"
        rows = rows[_drawn(len(rows), term.max_rows, step).to(rows.device)]
        student_logits = logits_of(student, rows, self.compute_dtype)
        with torch.no_grad():
            teacher_logits = logits_of(teacher, rows, self.compute_dtype)
        with torch.autocast(target_ids.device.type, enabled=False):
            return term.loss(student_logits, teacher_logits, target_ids[rows])


def trained(target_ids: Tensor) -> Tensor:
    """The mask of positions that have a target, same shape; every number of a regression is one."""
    return (target_ids != IGNORED_ID) | target_ids.is_floating_point()


def _diagnostics(terms: Sequence[Term], is_regression: bool) -> list[HeadTerm]:
    """What is measured wherever there is a teacher, and what terms with a floor clamped."""
    if is_regression:
        return [HeadTerm("teacher_mse", TEACHER_MSE)]
    found = [HeadTerm("teacher_nll", TEACHER_NLL), HeadTerm("kl", FORWARD_KL)]
    losses = [term.loss for term in terms if isinstance(term.loss, HeadTerm)]
    return found + [
        HeadTerm(f"num_clamped/{loss.name}", NUM_CLAMPED, loss.temperature)
        for loss in losses
        if loss.divergence.has_floor
    ]


def _drawn(num_rows: int, most: int, step: int) -> Tensor:
    """So many rows at the most, in order; the same for the same step."""
    if num_rows <= most:
        return torch.arange(num_rows)
    generator = torch.Generator().manual_seed(step)
    return torch.randperm(num_rows, generator=generator)[:most].sort().values
