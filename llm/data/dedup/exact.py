"""Exact: documents are the same when their folded texts have the same hash.

Equations   (1) in docs/data/dedup/exact.md
Source      Lee et al. 2021, arXiv 2107.06499, section 4 (exact matching), by whole document
Cost        O(bytes) to hash; 16 bytes a document; O(N log N) to compare
Differs     from the source: whole documents, not substrings
Shapes      N documents
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm.data.dedup.base import Dedup, Pairs, Texts, buckets, fold, pair_array


@dataclass(frozen=True, kw_only=True)
class Config:
    """fold: compare texts without regard to case, white space and Unicode composition."""

    fold: bool = True


class Exact(Dedup):
    """Equal 128-bit hash of the folded text."""

    reason = "exact_duplicate"

    def __init__(self, config: Config) -> None:
        self.fold = config.fold

    def signatures(self, texts: Sequence[str]) -> NDArray[Any]:
        digests = b"".join(self._digest(text) for text in texts)
        return np.frombuffer(digests, dtype="<u8").reshape(len(texts), 2)

    def pairs(self, signatures_NW: NDArray[Any], texts: Texts) -> Pairs:
        keys = np.ascontiguousarray(signatures_NW).view("S16").ravel()
        pairs = [(int(group[0]), int(row)) for group in buckets(keys) for row in group[1:]]
        return Pairs(rows_M2=pair_array(pairs))

    def _digest(self, text: str) -> bytes:
        folded = fold(text) if self.fold else text
        return hashlib.blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=16).digest()  # (1)


build = Exact
