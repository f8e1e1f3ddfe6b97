"""BLEU: how many n-grams of a text also stand in a reference, over a whole corpus.

Equations   (1)-(3) in docs/eval/metrics/bleu.md; comments below carry the same numbers.
Source      Papineni et al. 2002 (ACL); tokenisation 13a and smoothing "exp" as in Post 2018, arXiv 1804.08771
Differs     from sacrebleu (signature case:mixed|eff:no|tok:13a|smooth:exp): nothing but speed
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

MAX_ORDER = 4
Tokenize = Callable[[str], list[str]]

_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_SPLITS = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),  # punctuation
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),  # . and , unless a digit stands before
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),  # ... or unless a digit stands after
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),  # a dash after a digit
)


def tokenize_13a(text: str) -> list[str]:
    """The tokenisation of the mteval-13a script: punctuation apart, case kept, no language knowledge."""
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    text = f" {text} "
    for pattern, replacement in _SPLITS:
        text = pattern.sub(replacement, text)
    return text.split()


def ngrams(tokens: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    """Counts of the n-grams of one order."""
    return Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))


def statistics(hypothesis: str, references: Sequence[str], tokenize: Tokenize = tokenize_13a) -> list[int]:
    """Ten counts that add up over a corpus: matches and totals of orders 1-4, lengths of both sides (1).

    An n-gram matches at most as often as it stands in the reference that has most of it. The reference
    length is the one closest to the hypothesis, the shorter on a tie.
    """
    words, targets = tokenize(hypothesis), [tokenize(reference) for reference in references]
    matches, totals = [], []
    for order in range(1, MAX_ORDER + 1):
        found, most = ngrams(words, order), Counter[tuple[str, ...]]()
        for target in targets:
            most |= ngrams(target, order)
        matches.append((found & most).total())
        totals.append(found.total())
    closest = min((abs(len(target) - len(words)), len(target)) for target in targets)[1]
    return [*matches, *totals, len(words), closest]


def from_statistics(counts: Sequence[int]) -> float:
    """BLEU, 0-100, of summed `statistics` (2)-(3)."""
    matches, totals = counts[:MAX_ORDER], counts[MAX_ORDER : 2 * MAX_ORDER]
    n_words, n_reference = counts[2 * MAX_ORDER :]
    if not any(matches) or not all(totals):
        return 0.0
    logs, smooth = [], 1.0
    for match, total in zip(matches, totals, strict=True):
        if match == 0:
            smooth *= 2  # the k-th order without a match counts as 1 / 2^k matches (3)
        logs.append(math.log((match or 1 / smooth) / total))
    brevity = 1.0 if n_words >= n_reference else math.exp(1 - n_reference / n_words)
    return 100 * brevity * math.exp(math.fsum(logs) / MAX_ORDER)  # (2)


def corpus_bleu(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], tokenize: Tokenize = tokenize_13a
) -> float:
    """BLEU of a corpus; `references[i]` are all references of `hypotheses[i]`."""
    counts = [statistics(h, r, tokenize) for h, r in zip(hypotheses, references, strict=True)]
    return from_statistics([sum(column) for column in zip(*counts, strict=True)])
