"""distinct-n: the share of different n-grams among all n-grams of a set of texts; low = the model repeats itself.

Equations   (1) in docs/eval/metrics/distinct.md
Source      Li et al. 2016, arXiv 1510.03055, section 5.3
Differs     from the paper: nothing. The share falls with the amount of text: compare only equal amounts
"""

from collections import Counter
from collections.abc import Sequence

from llm.eval.metrics.bleu import ngrams
from llm.eval.metrics.rouge import words


def distinct_n(texts: Sequence[str], order: int) -> float:
    """Different n-grams / n-grams over all texts together (1); 0 when there is no n-gram."""
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        counts.update(ngrams(words(text), order))
    return len(counts) / counts.total() if counts else 0.0
