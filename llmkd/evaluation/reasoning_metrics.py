"""From graded answers to numbers: several answers to one question at a time."""

from collections import Counter
from collections.abc import Sequence
from math import comb

from llmkd.rewards.exact import UNANSWERED, Grade


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """The chance that at least one of k samples is right, of those drawn without replacement.

        1 - C(n - c, k) / C(n, k)

    Unbiased, which 1 - (1 - c/n)^k is not.

    Args:
        num_samples: n, at least k.
        num_right: c, in 0..n.
        k: At least 1.

    References:
        Chen et al. 2021, "Evaluating Large Language Models Trained on Code",
        https://arxiv.org/abs/2107.03374, equation 1.

    Example:
        >>> pass_at_k(3, 1, 2)
        0.6666666666666667
    """
    assert 0 <= num_right <= num_samples
    assert 1 <= k <= num_samples
    return 1 - comb(num_samples - num_right, k) / comb(num_samples, k)


def avg_at_k(is_right: Sequence[bool], k: int) -> float:
    """The share of the first k samples that is right.

    Args:
        is_right: Of each sample.
        k: At most as many.
    """
    assert 1 <= k <= len(is_right)
    return sum(is_right[:k]) / k


def majority(grades: Sequence[Grade]) -> Grade:
    """The grade of the answer that most samples give; of equally many, of the one given first.

    Samples without an answer have no vote.

    References:
        Wang et al. 2023, "Self-Consistency Improves Chain of Thought Reasoning in Language Models",
        https://arxiv.org/abs/2203.11171, section 2.
    """
    votes = Counter(grade.answer for grade in grades if grade.answer is not None)
    if not votes:
        return UNANSWERED
    # Of equal counts, most_common keeps the order in which they were first met.
    winner = votes.most_common(1)[0][0]
    return next(grade for grade in grades if grade.answer == winner)
