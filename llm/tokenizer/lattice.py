"""lattice: all ways to cut one word into pieces; their sum, the best, the n best, a random one.

An edge from position `start` to position `end` of a word is a piece that stands there. A path from 0 to the end
is a segmentation; its log-probability is the sum of the scores on it. Every function below walks the edges once.

Equations   (1)-(4) in docs/tokenizer/lattice.md; comments below carry the same numbers
Source      Kudo 2018, arXiv 1804.10959, section 3; Scott 2002 for the draw (filter forwards, sample backwards)
Cost        O(w L) for a word of w characters and pieces of at most L
"""

import math
import random
from collections.abc import Sequence

Pieces = dict[str, float]  # piece -> log-probability
Edge = tuple[int, int, float]  # word[start:end] is a piece with this score


def lattice(word: str, pieces: Pieces, longest: int, unknown: float = -math.inf) -> list[Edge]:
    """All places of all pieces, by end, then by start; `unknown` is the score of a character that is no piece."""
    edges = []
    for end in range(1, len(word) + 1):
        for start in range(max(0, end - longest), end):
            score = pieces.get(word[start:end], unknown if end - start == 1 else -math.inf)
            if score > -math.inf:
                edges.append((start, end, score))
    return edges


def forward(word: str, edges: Sequence[Edge]) -> list[float]:
    """alpha[i]: log of the summed probability of all segmentations of word[:i] (1)."""
    alpha = [0.0] + [-math.inf] * len(word)
    for start, end, score in edges:
        alpha[end] = log_add(alpha[end], alpha[start] + score)
    return alpha


def backward(word: str, edges: Sequence[Edge]) -> list[float]:
    """beta[i]: the same for word[i:] (2)."""
    beta = [-math.inf] * len(word) + [0.0]
    for start, end, score in reversed(edges):
        beta[start] = log_add(beta[start], score + beta[end])
    return beta


def log_add(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high + math.log1p(math.exp(low - high)) if low > -math.inf else high


def viterbi(word: str, pieces: Pieces, longest: int, unknown: float = -math.inf) -> list[str]:
    """The most probable segmentation; of two equal ones the one whose last piece is longer (3)."""
    best = [0.0] + [-math.inf] * len(word)
    origin = [0] * (len(word) + 1)
    for start, end, score in lattice(word, pieces, longest, unknown):
        if best[start] + score > best[end]:
            best[end], origin[end] = best[start] + score, start
    path, end = [], len(word)
    while end > 0:
        path.append(word[origin[end] : end])
        end = origin[end]
    return path[::-1]


def n_best(word: str, pieces: Pieces, n: int, longest: int) -> list[tuple[float, list[str]]]:
    """The n most probable segmentations with their log-probabilities, best first."""
    best: list[list[tuple[float, list[str]]]] = [[(0.0, [])], *([] for _ in word)]
    for start, end, score in lattice(word, pieces, longest):
        longer = [(before + score, [*path, word[start:end]]) for before, path in best[start]]
        best[end] = sorted(best[end] + longer, key=lambda item: -item[0])[:n]
    return best[-1]


def sample(word: str, pieces: Pieces, longest: int, alpha: float, generator: random.Random) -> list[str]:
    """A random segmentation with probability proportional to P(segmentation)^alpha (4): from the end backwards."""
    edges = [(start, end, alpha * score) for start, end, score in lattice(word, pieces, longest)]
    filtered = forward(word, edges)
    path, end = [], len(word)
    while end > 0:
        into = [(start, filtered[start] + score) for start, stop, score in edges if stop == end]
        weights = [math.exp(score - filtered[end]) for _, score in into]
        start = generator.choices([start for start, _ in into], weights)[0]
        path.append(word[start:end])
        end = start
    return path[::-1]
