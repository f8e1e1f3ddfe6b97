"""pairs: a prompt with a chosen and a rejected answer, read from the encoded preference set.

Reward models and preference losses read the same pairs. A pair is two rows with the same prompt; a batch
holds the chosen rows first, so that both halves go through the model together.

Shapes      P pairs, B = 2P rows
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm.data.encoded import EncodedSet, check_tokenizer
from llm.sft.rows import Row, read_row
from llm.tokenizer.base import Tokenizer
from llm.train.loop import LoopParams


@dataclass(frozen=True)
class Pair:
    """Two rows that share their prompt."""

    chosen: Row
    rejected: Row
    kind: str


@dataclass(frozen=True, kw_only=True)
class PairParams(LoopParams):
    """batch_pairs: pairs of a step. micro_pairs: pairs of one forward pass. max_tokens: longer rows lose the
    beginning of their prompt."""

    batch_pairs: int
    micro_pairs: int
    max_tokens: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch_pairs", "micro_pairs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be positive")
        if self.max_tokens < 2:
            raise ValueError(f"max_tokens ({self.max_tokens}) must be at least 2")


def read_pairs(folder: Path, tokenizer: Tokenizer, max_tokens: int) -> list[Pair]:
    """The pairs of an encoded preference split; both rows of a long pair lose the same part of the prompt.

    Raises:
        ValueError: other tokenizer, odd number of rows, or an answer too long for `max_tokens`.
    """
    encoded = EncodedSet.open(folder)
    check_tokenizer(encoded.meta, tokenizer.hash, folder)
    if len(encoded) % 2:
        raise ValueError(f"{folder}: {len(encoded)} rows are no pairs; run: dvc repro encode@preference")
    pairs = []
    for i in range(0, len(encoded), 2):
        chosen, rejected = read_row(encoded, i), read_row(encoded, i + 1)
        drop = max(len(chosen), len(rejected)) - max_tokens
        pair = Pair(chosen.without_first(drop), rejected.without_first(drop), encoded.docs[i]["kind"])
        if drop >= min(int(chosen.mask.argmax()), int(rejected.mask.argmax())):
            raise ValueError(
                f"{folder}: pair {encoded.docs[i]['id']} has an answer of more than {max_tokens - 2} tokens; "
                "raise max_tokens"
            )
        pairs.append(pair)
    return pairs


def both_rows(pairs: Sequence[Pair]) -> list[Row]:
    """2P rows: all chosen ones, then all rejected ones."""
    return [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]


def micro_groups(pairs: Sequence[Pair], indices: list[int], size: int) -> list[list[int]]:
    """The pairs of a step in groups of `size`, pairs of similar length together."""
    order = sorted(indices, key=lambda i: (len(pairs[i].chosen) + len(pairs[i].rejected), i))
    return [order[start : start + size] for start in range(0, len(order), size)]
