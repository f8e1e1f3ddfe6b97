"""quality: numbers that say how well a vocabulary fits a text.

Equations   (1)-(5) in docs/tokenizer/quality.md
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from llm.tokenizer.base import Tokenizer

_WORD = re.compile(r"\S+")
_LETTERS = re.compile(r"[^\W\d_]+")
_BATCH_CHARS = 1 << 22


def measure(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, float]:
    """Bytes per token, tokens per word, and how the vocabulary is used.

    Tokens are those of the text alone, without the end-of-text tokens that `encode` adds.
    Raises ValueError when the texts hold no word.
    """
    counts = [0] * tokenizer.vocab_size
    n_bytes = n_words = 0
    names: Counter[str] = Counter()
    for batch in batches(texts):
        for text, ids in zip(batch, tokenizer.encode_batch(batch), strict=True):
            n_bytes += len(text.encode())
            n_words += sum(1 for _ in _WORD.finditer(text))
            names.update(_LETTERS.findall(text))
            for index in ids:
                counts[index] += 1
    n_tokens = sum(counts)
    if not n_words:
        raise ValueError("tokenizer: nothing to measure, the texts hold no word; check the corpus")
    pieces = tokenizer.piece_bytes
    single = sum(count for count, piece in zip(counts, pieces, strict=True) if len(piece) == 1)
    return {
        "n_bytes": n_bytes,
        "n_tokens": n_tokens,
        "bytes_per_token": n_bytes / n_tokens,  # (1)
        "fertility": n_tokens / n_words,  # (2)
        "single_byte_frac": single / n_tokens,  # (3)
        "used_vocab_frac": sum(count > 0 for count in counts) / tokenizer.vocab_size,
        "whole_words_frac": _one_token(tokenizer, names) / max(1, names.total()),  # (4)
        "renyi": renyi_efficiency(counts),  # (5)
    }


def renyi_efficiency(counts: Sequence[int], alpha: float = 2.5) -> float:
    """Rényi entropy of the tokens' frequencies over that of a uniform vocabulary: 1 uses every token alike (5).

    Source: Zouhar et al. 2023, arXiv 2306.16842, eq. 5.
    """
    total = sum(counts)
    power = sum((count / total) ** alpha for count in counts)
    return math.log(power) / (1 - alpha) / math.log(len(counts))


def _one_token(tokenizer: Tokenizer, names: Counter[str]) -> int:
    """Occurrences of words that are a single token when a space stands before them."""
    distinct = list(names)
    encoded = tokenizer.encode_batch([f" {name}" for name in distinct])
    return sum(names[name] for name, ids in zip(distinct, encoded, strict=True) if len(ids) == 1)


def batches(texts: Iterable[str], n_chars: int = _BATCH_CHARS) -> Iterator[list[str]]:
    """Lists of texts of about `n_chars` characters together: memory stays bounded, the cores stay busy."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= n_chars:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
