"""The divergences of `llmkd.losses.divergences` for the chunked head: values, and their gradients.

Each function takes a `Pair` and gives [n] values and the derivative by the student's logits (as
divided by the temperature). The gradients are written out because they take a few passes over a
block of logits that is in the processor's cache, where automatic differentiation takes many over all
of memory. With h = dD/dq, softmax gives dD/dz = q (h - sum_v q_v h_v); the tests compare every one
with the derivative of the function of the same name.
"""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from llmkd.losses.divergences import IGNORED_ID, LOG_PROB_FLOOR
from llmkd.losses.divergences.blends import head_share
from llmkd.losses.divergences.labels import gatherable, others_logprobs
from llmkd.losses.signals import SampledLogits, TopKLogits
from llmkd.losses.sparse import forward_kl_of_samples, of_top_k
from llmkd.losses.terms import Divergence, Formula, Gradient, Pair

_MOST_NATS = 1e9


def _cross_entropy(pair: Pair) -> tuple[Tensor, Gradient]:
    ids, ignored = _labels(pair)

    def gradient(out: Tensor) -> Tensor:
        slope = torch.exp(pair.log_q, out=out)
        slope.scatter_add_(-1, ids, torch.full_like(ids, -1, dtype=slope.dtype))
        return slope.masked_fill_(ignored.unsqueeze(-1), 0)

    return _or_inf(pair.log_q.gather(-1, ids).squeeze(-1).neg().masked_fill(ignored, 0)), gradient


def _teacher_nll(pair: Pair) -> tuple[Tensor, Gradient]:
    ids, ignored = _labels(pair)
    if isinstance(pair.teacher, TopKLogits | SampledLogits):
        log_p_label = pair.teacher.label_log_prob.to(pair.student_logits.dtype)
    else:
        log_p_label = pair.log_p.gather(-1, ids).squeeze(-1)
        is_ruled_out = pair.teacher_logits.gather(-1, ids).squeeze(-1) == -torch.inf
        log_p_label = log_p_label.masked_fill(is_ruled_out, -torch.inf)
    return log_p_label.neg().masked_fill(ignored, 0), Tensor.zero_


def _label_mse(pair: Pair) -> tuple[Tensor, Gradient]:
    error = pair.student_logits - pair.target_ids.unsqueeze(-1)
    return error.squeeze(-1).square(), lambda out: torch.mul(error, 2, out=out)


def _teacher_mse(pair: Pair) -> tuple[Tensor, Gradient]:
    error = pair.teacher_logits.squeeze(-1) - pair.target_ids
    return error.square(), Tensor.zero_


def _num_clamped(pair: Pair) -> tuple[Tensor, Gradient]:
    clamped = (pair.log_p <= LOG_PROB_FLOOR) & (pair.q > 0)
    counts = clamped.sum(-1).to(pair.student_logits.dtype)
    return counts, Tensor.zero_


def _forward_kl(pair: Pair) -> tuple[Tensor, Gradient]:
    def gradient(out: Tensor) -> Tensor:
        return torch.exp(pair.log_q, out=out).sub_(pair.p)

    return _or_inf(_sum_of_difference(pair, pair.p, pair.log_p, pair.log_q)), gradient


def _reverse_kl(pair: Pair) -> tuple[Tensor, Gradient]:
    log_q_over_p = torch.sub(pair.log_q, pair.log_p, out=pair.new())

    def gradient(out: Tensor) -> Tensor:
        return _through_softmax(pair, log_q_over_p, out)

    return pair.dot(pair.q, log_q_over_p), gradient


def _jsd(pair: Pair, teacher_weight: float) -> tuple[Tensor, Gradient]:
    log_m = _log_mixture(pair, teacher_weight)
    kl_p = _sum_of_difference(pair, pair.p, pair.log_p, log_m)
    log_q_over_m = torch.sub(pair.log_q, log_m, out=log_m)
    kl_q = pair.dot(pair.q, log_q_over_m)

    def gradient(out: Tensor) -> Tensor:
        return _through_softmax(pair, log_q_over_m, out).mul_(1 - teacher_weight)

    return teacher_weight * kl_p + (1 - teacher_weight) * kl_q, gradient


def _skew_forward_kl(pair: Pair, alpha: float) -> tuple[Tensor, Gradient]:
    log_m = _log_mixture(pair, alpha)
    log_p_over_m = torch.sub(pair.log_p, log_m, out=log_m)
    values = pair.dot(pair.p, log_p_over_m)

    def gradient(out: Tensor) -> Tensor:
        p_over_m = torch.exp(log_p_over_m, out=pair.summands)
        return _through_softmax(pair, p_over_m, out).mul_(alpha - 1)

    return values, gradient


def _skew_reverse_kl(pair: Pair, alpha: float) -> tuple[Tensor, Gradient]:
    log_m = _log_mixture(pair, 1 - alpha)
    log_q_over_m = torch.sub(pair.log_q, log_m, out=log_m)
    values = pair.dot(pair.q, log_q_over_m)

    def gradient(out: Tensor) -> Tensor:
        q_over_m = torch.exp(log_q_over_m, out=pair.summands)
        return _through_softmax(pair, q_over_m.mul_(-alpha).add_(log_q_over_m), out)

    return values, gradient


def _total_variation(pair: Pair) -> tuple[Tensor, Gradient]:
    difference = torch.sub(pair.q, pair.p, out=pair.new())
    values = torch.linalg.vector_norm(difference, ord=1, dim=-1) / 2

    def gradient(out: Tensor) -> Tensor:
        return _through_softmax(pair, torch.sign(difference, out=pair.summands), out).div_(2)

    return values, gradient


def _adaptive_kl(pair: Pair, head_mass: float) -> tuple[Tensor, Gradient]:
    weight = head_share(pair.q, pair.p, head_mass, pair.new)
    reverse = -pair.dot(pair.q, pair.log_ratio)
    values = torch.lerp(reverse, pair.dot(pair.p, pair.log_ratio), weight)

    def gradient(out: Tensor) -> Tensor:
        # w (q - p) + (1 - w) q (-v - r), where v is reverse KL and r the log-ratio.
        share, scale = weight.unsqueeze(-1), (weight - 1).unsqueeze(-1)
        of_q = share + scale * reverse.unsqueeze(-1)
        slope = torch.addcmul(of_q, scale, pair.log_ratio, out=out).mul_(pair.q)
        return slope.addcmul_(share, pair.p, value=-1)

    return _or_inf(values), gradient


def _todi(pair: Pair) -> tuple[Tensor, Gradient]:
    def gradient(out: Tensor) -> Tensor:
        weight = torch.sigmoid(pair.log_ratio, out=pair.new())
        # By log q, which unlike q has no 0 to divide by: (1 - w) q (1 - log p/q) - w p.
        reverse = torch.sub(1, pair.log_ratio, out=out).mul_(pair.q)
        slope = reverse.addcmul_(weight, torch.add(reverse, pair.p, out=pair.summands), value=-1)
        return slope.addcmul_(pair.q, slope.sum(-1, keepdim=True), value=-1)

    difference = torch.sub(pair.p, pair.q, out=pair.new())
    return _or_inf(pair.dot(difference, pair.log_ratio)), gradient


def _nkd(pair: Pair, temperature: float, non_target_weight: float) -> tuple[Tensor, Gradient]:
    ids, _ = _labels(pair)
    p_label = pair.p.gather(-1, ids)
    others_log_q = others_logprobs(pair.log_q / temperature, ids)
    others_p = others_logprobs(pair.teacher_logits / temperature, ids).exp_().scatter_(-1, ids, 0)
    label, label_slope = _cross_entropy(pair)
    is_target = (pair.target_ids != IGNORED_ID).to(pair.q.dtype)
    scale = non_target_weight * temperature * is_target
    others = -pair.dot(others_p, others_log_q) * (scale * temperature)

    def gradient(out: Tensor) -> Tensor:
        slope = torch.exp(others_log_q, out=out).scatter_(-1, ids, 0)
        slope.mul_(others_p.sum(-1, keepdim=True)).sub_(others_p).mul_(scale.unsqueeze(-1))
        return slope.addcmul_(label_slope(pair.summands), p_label)

    target = (p_label.squeeze(-1) * label).masked_fill(p_label.squeeze(-1) == 0, 0)
    return _or_inf(target + others), gradient


def _logit_mse(pair: Pair) -> tuple[Tensor, Gradient]:
    is_finite = pair.teacher_logits > -torch.inf
    difference = (pair.student_logits - pair.teacher_logits).masked_fill_(~is_finite, 0)
    num_finite = is_finite.sum(-1).clamp(min=1).to(difference.dtype)
    values = pair.dot(difference, difference) / num_finite
    return values, lambda out: torch.mul(difference, (2 / num_finite).unsqueeze(-1), out=out)


def _labels(pair: Pair) -> tuple[Tensor, Tensor]:
    """Ids that can be gathered, [n, 1], and which of them stand for no target, [n]."""
    return gatherable(pair.target_ids), pair.target_ids == IGNORED_ID


def _or_inf(values: Tensor) -> Tensor:
    # `RULED_OUT` times a probability; one below 1e-21 is not seen.
    return values.masked_fill(values > _MOST_NATS, torch.inf)


def _log_mixture(pair: Pair, teacher_weight: float) -> Tensor:
    # Where neither has mass its logarithm is multiplied by 0, and must not be -inf.
    mixture = torch.lerp(pair.q, pair.p, teacher_weight, out=pair.new())
    return mixture.clamp_(min=torch.finfo(mixture.dtype).tiny).log_()


def _sum_of_difference(pair: Pair, weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The sum of weight (a - b) over the vocabulary."""
    return torch.sub(a, b, out=pair.summands).mul_(weight).sum(-1)


def _through_softmax(pair: Pair, slope: Tensor, out: Tensor) -> Tensor:
    """From dD/dq to dD/dz."""
    return torch.ops.aten._softmax_backward_data(slope, pair.q, -1, slope.dtype, grad_input=out)


def _f_divergence(formula: Formula, of_samples: Formula | None = None) -> Divergence:
    return Divergence(formula, of_top_k=of_top_k(formula), of_samples=of_samples)


def _of_labels(formula: Formula) -> Divergence:
    return Divergence(formula, of_top_k=formula, of_samples=formula, is_of_labels=True)


CROSS_ENTROPY = _of_labels(_cross_entropy)
TEACHER_NLL = _of_labels(_teacher_nll)
LABEL_MSE = Divergence(_label_mse, has_temperature=False)
TEACHER_MSE = Divergence(_teacher_mse, has_temperature=False)
NUM_CLAMPED = Divergence(_num_clamped, of_top_k=of_top_k(_num_clamped))
FORWARD_KL = _f_divergence(_forward_kl, of_samples=forward_kl_of_samples)
REVERSE_KL = replace(_f_divergence(_reverse_kl), has_floor=True)
TOTAL_VARIATION = _f_divergence(_total_variation)
TODI = Divergence(_todi, has_floor=True)
LOGIT_MSE = Divergence(_logit_mse, has_temperature=False)


def jsd(teacher_weight: float) -> Divergence:
    """`llmkd.losses.divergences.jsd`."""
    return _f_divergence(partial(_jsd, teacher_weight=teacher_weight))


def skew_forward_kl(alpha: float) -> Divergence:
    """`llmkd.losses.divergences.skew_forward_kl`."""
    return _f_divergence(partial(_skew_forward_kl, alpha=alpha))


def skew_reverse_kl(alpha: float) -> Divergence:
    """`llmkd.losses.divergences.skew_reverse_kl`."""
    return _f_divergence(partial(_skew_reverse_kl, alpha=alpha))


def adaptive_kl(head_mass: float) -> Divergence:
    """`llmkd.losses.divergences.adaptive_kl`."""
    return Divergence(partial(_adaptive_kl, head_mass=head_mass), has_floor=True)


def nkd(temperature: float, non_target_weight: float) -> Divergence:
    """`llmkd.losses.divergences.nkd`, which divides by a temperature of its own."""
    formula = partial(_nkd, temperature=temperature, non_target_weight=non_target_weight)
    return Divergence(formula, has_temperature=False)
