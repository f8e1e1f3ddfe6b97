"""lattices: the lattices of many words, walked in step with numpy; lattice.py is the same for one word.

Words are sorted, longest first. Layer t holds position t of every word of at least t characters, so a layer is
a prefix of the layer before it, and node (t, word) has the number `first[t] + word`:

    layer      0            1            2         3
               d u c k      .            .         .           word 0, "duck", has nodes in layers 0 to 4,
               t h e        .            .         .           word 1, "the", in layers 0 to 3
               a            .                                  word 2, "a", in layers 0 and 1

All edges into one layer come from earlier layers, so a layer is summed in one operation over all words.

Equations   (1)-(3) of docs/tokenizer/lattice.md
Cost        O(edges) numbers and a few numpy calls per layer
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Lattices:
    """All segmentations of all words.

    lengths: of the words, longest first. counts: how often each occurs. Edge i is piece `piece[i]` from position
    `begin[i]` to position `end[i]` of word `word[i]`; every character of a word must be a piece.
    """

    def __init__(
        self, lengths: Ints, counts: Floats, word: Ints, begin: Ints, end: Ints, piece: NDArray[np.int32]
    ) -> None:
        self.counts, self.n_words = counts, len(lengths)
        longest = int(lengths[0]) if self.n_words else 0
        self.widths = np.searchsorted(-lengths, -np.arange(longest + 2), side="right")  # words in each layer
        self.first = np.concatenate([[0], np.cumsum(self.widths)])
        self.n_nodes = int(self.first[-1])
        self.final = self.first[lengths] + np.arange(self.n_words)
        tail, head = self.first[end] + word, self.first[begin] + word
        order = np.argsort((tail << 32) + head, kind="stable")  # by end; the longer piece first
        self.head, self.tail, self.piece = head[order], tail[order], piece[order]
        self.by_head = np.argsort(self.head, kind="stable")
        self._index()

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Drop the edges of the other pieces; kept pieces are numbered anew in the same order."""
        stay = kept[self.piece]
        numbers = np.cumsum(stay) - 1
        self.by_head = numbers[self.by_head[stay[self.by_head]]]
        self.head, self.tail = self.head[stay], self.tail[stay]
        self.piece = (np.cumsum(kept, dtype=np.int32) - 1)[self.piece[stay]]
        self._index()

    def _index(self) -> None:
        """Where the edges of each node and of each layer begin, in both orders."""
        self.into = _Groups(self.tail, self.first)
        self.out_of = _Groups(self.head[self.by_head], self.first)

    def forward(self, score: Floats) -> Floats:
        """alpha of every node: log of the summed probability of all ways to reach it (1)."""
        alpha = np.zeros(self.n_nodes)
        for edges, nodes, groups in self.into.layers():
            alpha[nodes] = _log_sum(alpha[self.head[edges]] + score[edges], groups)
        return alpha

    def backward(self, score: Floats, last: Floats) -> Floats:
        """beta of every node: the same from the node to the end of its word, where it is `last` (2)."""
        beta = np.zeros(self.n_nodes)
        beta[self.final] = last
        score, tail = score[self.by_head], self.tail[self.by_head]
        for edges, nodes, groups in self.out_of.layers(reverse=True):
            beta[nodes] = _log_sum(score[edges] + beta[tail[edges]], groups)
        return beta

    def expected_counts(self, scores: Floats) -> Floats:
        """How often each piece is expected in all words together."""
        score = scores[self.piece]
        alpha = self.forward(score)
        # Division by the probability of the word and weighting by its count are done once a word.
        beta = self.backward(score, np.log(self.counts) - alpha[self.final])
        often = np.exp(alpha[self.head] + score + beta[self.tail])
        return np.bincount(self.piece, often, minlength=len(scores)).astype(np.float64)

    def best_paths(self, scores: Floats) -> tuple[Ints, Ints]:
        """The most probable segmentation of every word (3): (word, piece) for each piece on it, no order."""
        score = scores[self.piece]
        best = np.zeros(self.n_nodes)
        origin = np.zeros(self.n_nodes, dtype=np.int64)
        for edges, nodes, groups in self.into.layers():
            through = best[self.head[edges]] + score[edges]
            best[nodes] = top = np.maximum.reduceat(through, groups)
            group = np.repeat(np.arange(len(groups)), np.diff(groups, append=len(through)))
            equal = np.flatnonzero(through == top[group])
            earliest = equal[np.diff(group[equal], prepend=-1) > 0]
            origin[nodes] = edges.start + earliest
        words, node = np.arange(self.n_words), self.final
        found = []
        while len(words):
            found.append((words, self.piece[origin[node]]))
            node = self.head[origin[node]]
            words, node = words[node >= self.n_words], node[node >= self.n_words]
        if not found:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        return np.concatenate([word for word, _ in found]), np.concatenate([piece for _, piece in found])


class _Groups:
    """Sorted node numbers of edges, cut into layers and, within a layer, into the edges of one node."""

    def __init__(self, nodes: Ints, first: Ints) -> None:
        self.starts = np.flatnonzero(np.diff(nodes, prepend=-1))
        self.nodes = nodes[self.starts]
        self.layer_edges = np.searchsorted(nodes, first)
        self.layer_groups = np.searchsorted(self.nodes, first)

    def layers(self, reverse: bool = False) -> Iterator[tuple[slice, slice, Ints]]:
        """(edges, nodes, first edge of each node within `edges`) of each layer that has edges."""
        order = range(len(self.layer_edges) - 1)
        for layer in reversed(order) if reverse else order:
            low, high = int(self.layer_edges[layer]), int(self.layer_edges[layer + 1])
            if low < high:
                groups = slice(int(self.layer_groups[layer]), int(self.layer_groups[layer + 1]))
                node = int(self.nodes[groups.start])
                yield (
                    slice(low, high),
                    slice(node, node + groups.stop - groups.start),
                    self.starts[groups] - low,
                )


def _log_sum(values: Floats, groups: Ints) -> Floats:
    """log of the sum of exp(values) of each group."""
    highest = np.maximum.reduceat(values, groups)
    lengths = np.diff(groups, append=len(values))
    return highest + np.log(np.add.reduceat(np.exp(values - np.repeat(highest, lengths)), groups))
