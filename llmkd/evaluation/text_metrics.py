"""How near a text is to its references, from 0 to 1.

Of several references the nearest counts.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

from llmkd.errors import InputError

Rouge = Literal["rouge1", "rouge2", "rougeL"]


def exact_match(text: str, references: Sequence[str]) -> float:
    """1 where the text is a reference, but for white space around it."""
    return float(text.strip() in [reference.strip() for reference in references])


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
    try:
        from nltk.tokenize import NLTKWordTokenizer
        from nltk.translate.bleu_score import sentence_bleu
    except ImportError as error:
        raise _missing("bleu_4", "nltk") from error
    words = NLTKWordTokenizer().tokenize
    with warnings.catch_warnings():
        # It warns of n-grams that are not shared, which is what 0 says.
        warnings.simplefilter("ignore", UserWarning)
        score: Any = sentence_bleu([words(one) for one in references], words(text))
    return float(score)


def f1_score_macro(texts: Sequence[str], references: Sequence[str]) -> float:
    """Mean over labels of each label's F1, of texts that are taken for labels.

    Labels are all that texts or references name; one that is never right has 0.
    """
    labels = dict.fromkeys([*references, *texts])
    return sum(_label_f1(label, texts, references) for label in labels) / len(labels)


def f1_score_micro(texts: Sequence[str], references: Sequence[str]) -> float:
    """F1 over all labels together, of texts that are taken for labels: here the share that is right."""
    pairs = zip(texts, references, strict=True)
    return sum(text == reference for text, reference in pairs) / len(references)


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


def _label_f1(label: str, texts: Sequence[str], references: Sequence[str]) -> float:
    pairs = list(zip(texts, references, strict=True))
    num_right = sum(text == reference == label for text, reference in pairs)
    num_named = sum((text == label) + (reference == label) for text, reference in pairs)
    return 2 * num_right / num_named


@lru_cache
def _rouge_scorer(name: Rouge) -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise _missing(name, "rouge_score") from error
    return RougeScorer([name], use_stemmer=False)


def _missing(metric: str, package: str) -> InputError:
    return InputError(
        f"metrics: {metric} needs {package}, which is not installed; run pip install "
        "'llmkd[eval]', or leave it out"
    )
