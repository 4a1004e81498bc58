"""From a train stage's losses to its objective: with `llmkd.build`, what knows every kind."""

from functools import partial
from pathlib import Path
from typing import assert_never

import torch
from torch import Tensor

from llmkd import schedules
from llmkd.curation.manifest import kept_fraction
from llmkd.data.rationale import PARTS
from llmkd.losses import closed_form
from llmkd.losses.sinkhorn import (
    PAPER_TEMPERATURE,
    sinkhorn_divergence,
    sinkhorn_of_logits,
    sinkhorn_paper,
)
from llmkd.losses.terms import BatchTerm, Divergence, HeadTerm
from llmkd.objective import Objective, Term
from llmkd.recipe.data import is_regression
from llmkd.recipe.losses import (
    AdaptiveKLTerm,
    CosineSchedule,
    CrossEntropyTerm,
    DivergenceTerm,
    ForwardKLTerm,
    JSDTerm,
    KeptFraction,
    LabelMSETerm,
    LinearSchedule,
    LogitMSETerm,
    Loss,
    NKDTerm,
    PointwiseLoss,
    ReverseKLTerm,
    SinkhornPaperTerm,
    SinkhornTerm,
    SkewForwardKLTerm,
    SkewReverseKLTerm,
    ToDiTerm,
    TotalVariationTerm,
)
from llmkd.recipe.schema import TrainStage


def build_objective(
    stage: TrainStage, *, max_steps: int, compute_dtype: torch.dtype | None
) -> Objective:
    """The stage's terms with their schedules."""
    return Objective(
        [_build_term(loss, max_steps) for loss in stage.losses],
        has_teacher=stage.teacher is not None,
        is_regression=is_regression(stage.data),
        compute_dtype=compute_dtype,
    )


def _build_term(loss: Loss, max_steps: int) -> Term:
    temperature, scale = 1.0, 1.0
    if isinstance(loss, DivergenceTerm):
        temperature = loss.temperature
        scale = temperature**2 if loss.temperature_scaling == "squared" else 1.0
    weight = _build_schedule(loss.weight, max_steps)
    name = loss.name or loss.kind
    part = None if loss.part is None else PARTS.index(loss.part)
    if isinstance(loss, SinkhornTerm | SinkhornPaperTerm):
        return Term(_build_sinkhorn(loss, name), weight, part=part)
    return Term(HeadTerm(name, _build_divergence(loss), temperature), weight, scale, part)


def _build_sinkhorn(loss: SinkhornTerm | SinkhornPaperTerm, name: str) -> BatchTerm:
    if isinstance(loss, SinkhornTerm):
        temperature = loss.temperature
        of_rows = partial(
            sinkhorn_divergence,
            epsilon=loss.epsilon,
            max_iterations=loss.max_iterations,
            tolerance=loss.tolerance,
        )
    else:
        temperature = PAPER_TEMPERATURE
        of_rows = partial(sinkhorn_paper, factor=loss.factor)

    def of_batch(
        student_logits: Tensor, teacher_logits: Tensor, target_ids: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        found = sinkhorn_of_logits(
            student_logits,
            teacher_logits,
            target_ids,
            loss=of_rows,
            temperature=temperature,
            max_columns=loss.max_rows * (loss.top_k + 1),
            top_k=loss.top_k,
        )
        return found.value, {f"marginal_error/{name}": found.marginal_error}

    return BatchTerm(name, of_batch, loss.max_rows)


def _build_divergence(loss: PointwiseLoss) -> Divergence:
    match loss:
        case CrossEntropyTerm():
            return closed_form.CROSS_ENTROPY
        case LabelMSETerm():
            return closed_form.LABEL_MSE
        case ForwardKLTerm():
            return closed_form.FORWARD_KL
        case ReverseKLTerm():
            return closed_form.REVERSE_KL
        case JSDTerm(teacher_weight=teacher_weight):
            return closed_form.jsd(teacher_weight)
        case SkewForwardKLTerm(alpha=alpha):
            return closed_form.skew_forward_kl(alpha)
        case SkewReverseKLTerm(alpha=alpha):
            return closed_form.skew_reverse_kl(alpha)
        case TotalVariationTerm():
            return closed_form.TOTAL_VARIATION
        case AdaptiveKLTerm(head_mass=head_mass):
            return closed_form.adaptive_kl(head_mass)
        case ToDiTerm():
            return closed_form.TODI
        case NKDTerm(temperature=temperature, non_target_weight=non_target_weight):
            return closed_form.nkd(temperature, non_target_weight)
        case LogitMSETerm():
            return closed_form.LOGIT_MSE
        case unknown:
            assert_never(unknown)


def _build_schedule(
    weight: float | LinearSchedule | CosineSchedule | KeptFraction, max_steps: int
) -> schedules.WeightSchedule:
    match weight:
        case LinearSchedule(start=start, end=end, num_steps=num_steps):
            return schedules.linear(start, end, num_steps or max_steps)
        case CosineSchedule(start=start, end=end, num_steps=num_steps):
            return schedules.cosine(start, end, num_steps or max_steps)
        case KeptFraction(stage=stage, at_none=at_none, at_all=at_all):
            fraction = kept_fraction(Path(stage))
            return schedules.constant(at_none + (at_all - at_none) * fraction)
        case value:
            return schedules.constant(value)
