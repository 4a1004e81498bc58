"""Divergences from a few stored tokens of the teacher, without the bias of a cut-off distribution.

Keeping the top k probabilities as they are, or renormalised, teaches the student that all other
tokens are impossible: at the optimum its tail is empty. Two targets do better.

- Top k and one bucket for all other tokens: a divergence over k + 1 outcomes. Merging outcomes can
  only make an f-divergence smaller, so it is a lower bound of the whole one, and its optimum keeps
  the tail's mass.
- Random sampling (RS-KD): tokens drawn from the teacher stand for all of it. The expected gradient of
  forward KL is that of the whole distribution, which holds for no other divergence here.

References:
    Anshumann et al. 2025, "Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs",
    https://arxiv.org/abs/2503.16870, section 3.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llmkd.losses.divergences import logprobs, teacher_nll
from llmkd.losses.signals import SampledLogits, TopKLogits
from llmkd.losses.terms import RULED_OUT, Formula, Gradient, Pair


def top_k_logits(
    logits: Float[Tensor, "n vocab"],
    target_ids: Int[Tensor, " n"],
    *,
    k: int,
    temperature: float = 1.0,
) -> TopKLogits:
    """What a store keeps of the teacher: its k likeliest tokens, the rest of the mass, the label.

    Args:
        logits: The teacher's.
        target_ids: The token that each position predicts, or -100 for none.
        k: At most V.
        temperature: Divides the logits.
    """
    log_p = logprobs(logits.detach(), temperature=temperature)
    kept, ids = log_p.topk(k, dim=-1)
    tail = log_p.scatter(-1, ids, -torch.inf).logsumexp(-1)
    return TopKLogits(ids, kept, tail, _label_log_probs(logits, target_ids), temperature)


def sampled_logits(
    logits: Float[Tensor, "n vocab"],
    target_ids: Int[Tensor, " n"],
    *,
    num_samples: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> SampledLogits:
    """Tokens drawn from the teacher, with replacement.

    Args:
        logits: The teacher's.
        target_ids: The token that each position predicts, or -100 for none.
        num_samples: Draws at each position.
        temperature: Divides the logits.
        generator: Of the draws.
    """
    log_p = logprobs(logits.detach(), temperature=temperature)
    p = log_p.exp()
    ids = p.multinomial(num_samples, replacement=True, generator=generator)
    weights = torch.full_like(ids, 1, dtype=p.dtype) / num_samples
    entropy = -torch.xlogy(p, p).sum(-1)
    return SampledLogits(ids, weights, entropy, _label_log_probs(logits, target_ids), temperature)


def _label_log_probs(logits: Tensor, target_ids: Tensor) -> Tensor:
    return -teacher_nll(logits, target_ids)


def of_top_k(formula: Formula) -> Formula:
    """The divergence over k + 1 outcomes: the stored tokens, and all others as one.

    Args:
        formula: Of two whole distributions, and invariant to shifts of the logits.
    """

    def coarse(pair: Pair) -> tuple[Tensor, Gradient]:
        top = pair.teacher
        assert isinstance(top, TopKLogits)
        others = pair.log_q.scatter(-1, top.token_ids, -torch.inf)
        # Empty where k is the whole vocabulary, and -inf less -inf is NaN.
        tail = others.logsumexp(-1, keepdim=True).clamp_(min=RULED_OUT)
        student = torch.cat([pair.log_q.gather(-1, top.token_ids), tail], -1)
        teacher = torch.cat([top.log_probs, top.tail_log_prob.unsqueeze(-1)], -1)
        values, slope = formula(Pair(student, teacher.to(student.dtype), pair.target_ids))

        def gradient(out: Tensor) -> Tensor:
            of_outcomes = slope(torch.empty_like(student))
            # What moves the bucket moves its tokens in proportion to their shares of it.
            whole = torch.sub(others, tail, out=out).exp_().mul_(of_outcomes[:, -1:])
            return whole.scatter_(-1, top.token_ids, of_outcomes[:, :-1])

        return values, gradient

    return coarse


def forward_kl_of_samples(pair: Pair) -> tuple[Tensor, Gradient]:
    """An unbiased estimate of forward KL, with an unbiased gradient; it may be negative.

    The teacher's entropy is known exactly and the rest, its cross-entropy, is estimated: a number per
    position serves where every drawn token's log-probability would be needed else.
    """
    drawn = pair.teacher
    assert isinstance(drawn, SampledLogits)
    weights = drawn.weights.to(pair.log_q.dtype)
    log_q = pair.log_q.gather(-1, drawn.token_ids)

    def gradient(out: Tensor) -> Tensor:
        mass = weights.sum(-1, keepdim=True)
        return torch.mul(pair.q, mass, out=out).scatter_add_(-1, drawn.token_ids, -weights)

    return -(weights * log_q).sum(-1) - drawn.entropy.to(log_q.dtype), gradient
