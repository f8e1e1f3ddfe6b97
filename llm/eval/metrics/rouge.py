"""ROUGE: overlap of a text with a reference in n-grams (N) or in the longest common subsequence (L, Lsum).

Equations   (1)-(3) in docs/eval/metrics/rouge.md; comments below carry the same numbers.
Source      Lin 2004 (ACL workshop Text Summarization Branches Out)
Cost        N: linear; L and Lsum: product of the two lengths
Differs     from Google's rouge_score: no Porter stemmer (its default is off too); any tokenizer may be given
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from llm.eval.metrics.bleu import ngrams

Tokenize = Callable[[str], list[str]]
_NOT_WORD = re.compile(r"[^a-z0-9]+")


class Rouge(NamedTuple):
    """Shares of the hypothesis and of the reference that overlap, and their harmonic mean."""

    precision: float
    recall: float
    f1: float


def words(text: str) -> list[str]:
    """Lower-case runs of a-z and 0-9. Other scripts vanish: give Chinese a tokenizer (`list` for characters)."""
    return _NOT_WORD.sub(" ", text.lower()).split()


def rouge_n(hypothesis: str, reference: str, order: int, tokenize: Tokenize = words) -> Rouge:
    """Overlap of n-grams, each counted as often as it stands on both sides (1)."""
    found, wanted = ngrams(tokenize(hypothesis), order), ngrams(tokenize(reference), order)
    return _rouge((found & wanted).total(), found.total(), wanted.total())


def rouge_l(hypothesis: str, reference: str, tokenize: Tokenize = words) -> Rouge:
    """Longest common subsequence of the two texts (2)."""
    found, wanted = tokenize(hypothesis), tokenize(reference)
    return _rouge(_lcs_table(wanted, found)[-1][-1], len(found), len(wanted))


def rouge_lsum(hypothesis: str, reference: str, tokenize: Tokenize = words) -> Rouge:
    """Line by line: each reference line with the union of its common subsequences with all lines (3)."""
    found = [tokenize(line) for line in hypothesis.split("\n") if line]
    wanted = [tokenize(line) for line in reference.split("\n") if line]
    left_found = Counter(token for line in found for token in line)
    left_wanted = Counter(token for line in wanted for token in line)
    n_found, n_wanted, hits = left_found.total(), left_wanted.total(), 0
    for line in wanted:
        for index in sorted({index for other in found for index in _lcs_indices(line, other)}):
            token = line[index]
            if left_found[token] > 0 and left_wanted[token] > 0:
                hits += 1
                left_found[token] -= 1
                left_wanted[token] -= 1
    return _rouge(hits, n_found, n_wanted)


def _rouge(hits: int, n_found: int, n_wanted: int) -> Rouge:
    precision, recall = hits / max(n_found, 1), hits / max(n_wanted, 1)
    return Rouge(precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0)


def _lcs_table(a: Sequence[str], b: Sequence[str]) -> list[list[int]]:
    """table[i][j]: length of the longest common subsequence of a[:i] and b[:j]."""
    table = [[0] * (len(b) + 1)]
    for token in a:
        above, row = table[-1], [0]
        for j, other in enumerate(b):
            row.append(above[j] + 1 if token == other else max(above[j + 1], row[j]))
        table.append(row)
    return table


def _lcs_indices(a: Sequence[str], b: Sequence[str]) -> list[int]:
    """Positions in `a` of one longest common subsequence with `b`: the one found from the end, `a` first."""
    table, i, j, indices = _lcs_table(a, b), len(a), len(b), []
    while i and j:
        if a[i - 1] == b[j - 1]:
            i, j = i - 1, j - 1
            indices.append(i)
        elif table[i][j - 1] > table[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return indices
