r"""The objective: the one place for masks, weights, temperature squared and the division.

.. math:: L = \sum_i w_i(\mathrm{step}) \sum_t m_{i,t}\, \ell_{i,t} / N_i

over all positions t of the global batch, where N_i counts the positions that mask m_i keeps over
all ranks and accumulation steps. Because N_i is global, cutting a batch into micro-batches or ranks
changes neither loss nor gradient.

Shapes: B batch, T time, K terms, D diagnostics, N kept positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmkd.losses.closed_form import FORWARD_KL, TEACHER_NLL
from llmkd.losses.dense import divergence_from_logits
from llmkd.losses.divergences import IGNORED_ID
from llmkd.losses.linear_head import divergence_from_hidden
from llmkd.losses.signals import DenseLogits, LinearHead
from llmkd.losses.terms import HeadOutput, HeadTerm
from llmkd.schedules import WeightSchedule


@dataclass(frozen=True)
class Term:
    """A divergence with its weight.

    Args:
        head_term: What the chunked head computes per position; its name is the metric's.
        weight: The schedule w_i.
        scale: A constant factor: temperature squared, or 1.
    """

    head_term: HeadTerm
    weight: WeightSchedule
    scale: float = 1.0


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

    Args:
        terms: At least one, with different names.
        has_teacher: Whether `__call__` gets a teacher's head; then `teacher_nll` and `kl` (forward
            KL at temperature 1) are measured beside the terms.
        compute_dtype: Type of the heads' matrix products; None takes the hidden states' own.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        *,
        has_teacher: bool,
        compute_dtype: torch.dtype | None = None,
    ):
        self.terms = list(terms)
        self.compute_dtype = compute_dtype
        self.diagnostics = list(_TEACHER_DIAGNOSTICS) if has_teacher else []

    def only(self, index: int) -> "Objective":
        """The objective of one term, without diagnostics."""
        return Objective([self.terms[index]], has_teacher=False, compute_dtype=self.compute_dtype)

    def count_positions(self, target_ids: Tensor) -> Tensor:
        """N_i of one micro-batch: the positions that each term's mask keeps, [K]."""
        return trained(target_ids).sum().expand(len(self.terms))

    def __call__(
        self,
        student: LinearHead | DenseLogits,
        teacher: LinearHead | DenseLogits | None,
        target_ids: Tensor,
        *,
        num_positions: Tensor,
        step: int,
    ) -> ObjectiveOutput:
        """One micro-batch's share of the loss and of the metrics.

        Args:
            student: Of the N kept positions; gradients flow to logits, or hidden states and weights.
            teacher: Of the same positions.
            target_ids: The tokens that follow, or the labels, [N].
            num_positions: N_i summed over all micro-batches and ranks of the step, [K].
            step: Optimizer step, for the schedules.
        """
        share = num_positions.clamp(min=1).reciprocal().float()
        weights = share.new_tensor([term.weight(step) * term.scale for term in self.terms])
        position_weights = (weights * share)[:, None].expand(-1, len(target_ids))
        output = self._output(student, teacher, target_ids, position_weights)
        names = [f"loss/{term.head_term.name}" for term in self.terms]
        metrics = dict(zip(names, output.values.sum(-1) * share, strict=True))
        for diagnostic, values in zip(self.diagnostics, output.diagnostics, strict=True):
            metrics[diagnostic.name] = values.sum() * share[0]
        return ObjectiveOutput(loss=output.loss, metrics=metrics)

    def _output(
        self,
        student: LinearHead | DenseLogits,
        teacher: LinearHead | DenseLogits | None,
        target_ids: Tensor,
        position_weights: Tensor,
    ) -> HeadOutput:
        terms = [term.head_term for term in self.terms]
        if isinstance(student, DenseLogits):
            assert not isinstance(teacher, LinearHead), "both are classifiers"
            return divergence_from_logits(
                student, teacher, target_ids, terms, position_weights, diagnostics=self.diagnostics
            )
        assert not isinstance(teacher, DenseLogits), "both are language models"
        return divergence_from_hidden(
            student,
            teacher,
            target_ids,
            terms,
            position_weights,
            diagnostics=self.diagnostics,
            compute_dtype=self.compute_dtype,
        )


def trained(target_ids: Tensor) -> Tensor:
    """The mask of positions that have a target, same shape."""
    return target_ids != IGNORED_ID


_TEACHER_DIAGNOSTICS = (
    HeadTerm("teacher_nll", TEACHER_NLL),
    HeadTerm("kl", FORWARD_KL),
)
"""Measured wherever there is a teacher."""
