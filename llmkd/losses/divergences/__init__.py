"""Divergences between a teacher's and a student's next-token distributions.

Every function here is pure: it gives one number per position, in nats. Nothing here masks, averages,
weights or scales: `llmkd.objective` does that once, for every divergence alike. `p` is the teacher
and `q` the student throughout, as in Hinton et al. 2015.

Each divergence has two forms. `forward_kl` takes logits; `forward_kl_from_logprobs` takes what
`logprobs` makes of them, so that several terms on the same logits share one log-softmax. The first
is `logprobs` followed by the second. `logit_mse` and `label_mse` have no second form, as they compare
logits.

A token of probability 0 adds nothing (0 log 0 = 0). Where the teacher rules out (-inf) a token that
the student allows, KL(q || p) counts it as `LOG_PROB_FLOOR` nats, and `num_clamped` says where. What
is infinite the other way round, KL(p || q), is returned as `inf`. No gradient is ever NaN because of
either.
"""

from llmkd.losses.divergences.blends import (
    adaptive_kl,
    adaptive_kl_from_logprobs,
    todi,
    todi_from_logprobs,
)
from llmkd.losses.divergences.distances import (
    logit_mse,
    total_variation,
    total_variation_from_logprobs,
)
from llmkd.losses.divergences.distributions import LOG_PROB_FLOOR, logprobs, num_clamped
from llmkd.losses.divergences.kl import (
    forward_kl,
    forward_kl_from_logprobs,
    reverse_kl,
    reverse_kl_from_logprobs,
)
from llmkd.losses.divergences.labels import (
    IGNORED_ID,
    cross_entropy,
    cross_entropy_from_logprobs,
    label_mse,
    nkd,
    nkd_from_logprobs,
    teacher_nll,
)
from llmkd.losses.divergences.mixtures import (
    jsd,
    jsd_from_logprobs,
    skew_forward_kl,
    skew_forward_kl_from_logprobs,
    skew_reverse_kl,
    skew_reverse_kl_from_logprobs,
)

__all__ = [
    "IGNORED_ID",
    "LOG_PROB_FLOOR",
    "adaptive_kl",
    "adaptive_kl_from_logprobs",
    "cross_entropy",
    "cross_entropy_from_logprobs",
    "forward_kl",
    "forward_kl_from_logprobs",
    "jsd",
    "jsd_from_logprobs",
    "label_mse",
    "logit_mse",
    "logprobs",
    "nkd",
    "nkd_from_logprobs",
    "num_clamped",
    "reverse_kl",
    "reverse_kl_from_logprobs",
    "skew_forward_kl",
    "skew_forward_kl_from_logprobs",
    "skew_reverse_kl",
    "skew_reverse_kl_from_logprobs",
    "teacher_nll",
    "todi",
    "todi_from_logprobs",
    "total_variation",
    "total_variation_from_logprobs",
]
