"""How near a text is to its references, from 0 to 1.

Of several references the nearest counts.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

Rouge = Literal["rouge1", "rouge2", "rougeL"]


def f1_score(text: str, references: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of the words, each counted as often as it stands there.

    Words are what stands between white space; case and punctuation count, which SQuAD's own
    normalisation takes away.

    References:
        Rajpurkar et al. 2016, "SQuAD", https://arxiv.org/abs/1606.05250, section 6.1.

    Example:
        >>> f1_score("the quick fox", ["the fox"])
        0.8
    """
    return max(_f1(text.split(), reference.split()) for reference in references)


def rouge(name: Rouge, text: str, references: Sequence[str]) -> float:
    """F-measure of ROUGE-1, ROUGE-2 or ROUGE-L, without stemming.

    References:
        Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries",
        https://aclanthology.org/W04-1013.
    """
    scorer = _rouge_scorer(name)
    return max(float(scorer.score(reference, text)[name].fmeasure) for reference in references)


def bleu_4(text: str, references: Sequence[str]) -> float:
    """BLEU of one text: n-grams of 1 to 4 words by the Penn Treebank's rules, without smoothing.

    0 where the text and the references share no four words in a row.

    References:
        Papineni et al. 2002, "BLEU: a Method for Automatic Evaluation of Machine Translation",
        https://aclanthology.org/P02-1040.
    """
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.translate.bleu_score import sentence_bleu

    words = NLTKWordTokenizer().tokenize
    with warnings.catch_warnings():
        # It warns of n-grams that are not shared, which is what 0 says.
        warnings.simplefilter("ignore", UserWarning)
        score: Any = sentence_bleu([words(one) for one in references], words(text))
    return float(score)


TEXT_METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "f1": f1_score,
    "rouge1": lambda text, references: rouge("rouge1", text, references),
    "rouge2": lambda text, references: rouge("rouge2", text, references),
    "rougeL": lambda text, references: rouge("rougeL", text, references),
    "bleu_4": bleu_4,
}
"""By the names that recipes have for them."""


def _f1(words: Sequence[str], right: Sequence[str]) -> float:
    shared = (Counter(words) & Counter(right)).total()
    return 2 * shared / (len(words) + len(right)) if shared else 0.0


@lru_cache
def _rouge_scorer(name: Rouge) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([name], use_stemmer=False)
