"""pieces: documents to stretches of tokens that stay together in a row.

Equations   (1)-(2) in docs/data/pieces.md; comments below carry the same numbers.
Shapes      D documents, P pieces
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llm.data.chunking.base import Chunker, Chunks
from llm.data.token_text import TokenText


@dataclass(frozen=True)
class Pieces:
    """Stretches of documents, int64 [P] each: the document, where it starts there, its tokens, and how many of
    these are context: read, never scored. At least the first is, for nothing predicts it."""

    docs: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    contexts: np.ndarray

    def __len__(self) -> int:
        return len(self.docs)

    def pick(self, which: np.ndarray) -> "Pieces":
        """The pieces at an index or boolean array."""
        return Pieces(self.docs[which], self.starts[which], self.lengths[which], self.contexts[which])


def chunk_documents(
    lengths_D: np.ndarray, seq_len: int, chunker: Chunker, read: Callable[[int], TokenText] | None = None
) -> Pieces:
    """One piece for each document that fits a row of `seq_len` + 1 tokens; the others as the chunker cuts them.

    read: the text of a document, for a chunker that reads text.
    """
    chunks: dict[int, Chunks] = {}
    for doc in np.flatnonzero(lengths_D > seq_len + 1).tolist():
        text = read(doc) if read else None
        chunks[doc] = chunker.cut(int(lengths_D[doc]) - 1, seq_len, text)
    counts_D = np.ones(len(lengths_D), dtype=np.int64)
    counts_D[list(chunks)] = [len(spans) for spans in chunks.values()]
    docs_P = np.repeat(np.arange(len(lengths_D)), counts_D)
    starts_P = np.zeros(len(docs_P), dtype=np.int64)
    lengths_P, contexts_P = lengths_D[docs_P].astype(np.int64), np.ones(len(docs_P), dtype=np.int64)
    first_D = np.cumsum(counts_D) - counts_D
    for doc, spans in chunks.items():
        starts, ends = np.array(spans).T
        here = slice(first_D[doc], first_D[doc] + len(spans))
        starts_P[here] = starts
        lengths_P[here] = ends + 1 - starts  # (1)
        contexts_P[here] = 1 + np.concatenate(([0], ends[:-1] - starts[1:]))  # (2)
    return Pieces(docs_P, starts_P, lengths_P, contexts_P)


def repeat_documents(pieces: Pieces, order_N: np.ndarray) -> Pieces:
    """The pieces of documents that are read in a given order, each as often as it is named there."""
    n_docs = int(max(pieces.docs.max(), order_N.max())) + 1
    counts_D = np.bincount(pieces.docs, minlength=n_docs)
    first_D = np.cumsum(counts_D) - counts_D
    counts_N = counts_D[order_N]
    nth_P = np.arange(int(counts_N.sum())) - np.repeat(np.cumsum(counts_N) - counts_N, counts_N)
    return pieces.pick(np.repeat(first_D[order_N], counts_N) + nth_P)


def has_target(pieces: Pieces, starts_P: np.ndarray, loss_mask: np.ndarray) -> np.ndarray:
    """True for each piece with a scored token after its context, bool [P]. starts_P: places in the mask."""
    first_P, last_P = starts_P + pieces.contexts, starts_P + pieces.lengths
    spans = zip(first_P.tolist(), last_P.tolist(), strict=True)
    return np.fromiter((loss_mask[first:last].any() for first, last in spans), bool, len(pieces))
