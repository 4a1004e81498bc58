"""What is known of a metric by its name: its unit, and whether more of it is better."""

SHARES = frozenset(
    [
        "exact_match",
        "accuracy",
        "acc",
        "acc_norm",
        "acc_bytes",
        "acc_mutual_info",
        "em",
        "accuracy_normalised",
        "macro_f1",
        "micro_f1",
        "f1",
        "pass",
        "avg",
        "maj",
        "truncated",
        "unanswered",
        "auroc",
        "aupr_in",
        "aupr_out",
        "fpr_at_95_recall",
        "ece",
        "rouge1",
        "rouge2",
        "rougeL",
        "bleu_4",
        "top_1_agreement",
        "top_k_overlap",
        "acceptance",
        "measured_acceptance",
    ]
)
"""Metrics between 0 and 1, which are shown in percent."""
LOWER_IS_BETTER = frozenset(
    [
        "loss_per_token",
        "perplexity",
        "word_perplexity",
        "byte_perplexity",
        "bits_per_byte",
        "truncated",
        "unanswered",
        "ece",
        "brier",
        "brier_score",
        "mse",
        "ter",
        "aurc",
        "fpr_at_95_recall",
        "forward_kl",
        "reverse_kl",
    ]
)
LOWER = ":lower"
"""Ends the name of a metric of lm-eval's that is not known here, and of which less is better."""
NEITHER_IS_BETTER = frozenset(
    ["tokens", "parameters", "flops_per_token", "weights_mib", "peak_memory_mib"]
)
"""What an answer or a model costs: less is welcome, and no quality."""


def is_share(metric: str) -> bool:
    """Whether a metric is between 0 and 1; of `pass@8` the name is `pass`, of `em:strict` `em`."""
    return _name(metric) in SHARES


def is_lower_better(metric: str) -> bool:
    """Whether less of a metric is better."""
    return _name(metric) in LOWER_IS_BETTER or metric.endswith(LOWER)


def is_quality(metric: str) -> bool:
    """Whether more or less of a metric is better at all."""
    return _name(metric) not in NEITHER_IS_BETTER


def _name(metric: str) -> str:
    return metric.partition("@")[0].partition(":")[0]
