"""base: the interface of a method that removes paragraphs which an earlier document has already said.

A method cuts a text into paragraphs and gives a hash to each of those that may go. Which of several equal
ones stays is no business of the method: the caller keeps the one of the best document
(llm/data/deduplicate.py states the order), and a document never loses a paragraph to itself.

Shapes      P paragraphs of a text that may be removed
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Paragraphs:
    """One way to cut texts and to say which paragraphs are the same."""

    reason = "repeated_paragraphs"  # the name a document carries of which nothing is left

    def hashes(self, text: str) -> NDArray[np.uint64]:
        """One number for each paragraph that may be removed, in order, [P]."""
        raise TypeError(f"{type(self).__name__} defines no hashes")

    def without(self, text: str, repeated: Sequence[bool]) -> str:
        """The text without the paragraphs marked as repeated, one mark for each of `hashes`."""
        raise TypeError(f"{type(self).__name__} defines no without")
