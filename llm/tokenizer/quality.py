"""quality: numbers that say how well a vocabulary fits a text.

Equations   (1)-(3) in docs/tokenizer/quality.md
"""

import re
from collections.abc import Iterable, Iterator

from llm.tokenizer.base import Tokenizer
from llm.tokenizer.encoder import LibraryEncoder

_WORD = re.compile(r"\S+")
_BATCH_CHARS = 1 << 22


def measure(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, float]:
    """Bytes per token, tokens per word, and the shares of single-byte and of used tokens.

    Tokens are those of the text alone, without the end-of-text tokens that `encode` adds.
    Raises ValueError when the texts hold no word.
    """
    counts = [0] * tokenizer.vocab_size
    n_bytes = n_words = 0
    for batch in batches(texts):
        for text, ids in zip(batch, tokenizer.encode_batch(batch), strict=True):
            n_bytes += len(text.encode())
            n_words += sum(1 for _ in _WORD.finditer(text))
            for index in ids:
                counts[index] += 1
    n_tokens = sum(counts)
    if not n_words:
        raise ValueError("tokenizer: nothing to measure, the texts hold no word; check the corpus")
    pieces = LibraryEncoder(tokenizer).piece_bytes
    single = sum(count for count, piece in zip(counts, pieces, strict=True) if len(piece) == 1)
    return {
        "n_bytes": n_bytes,
        "n_tokens": n_tokens,
        "bytes_per_token": n_bytes / n_tokens,  # (1)
        "fertility": n_tokens / n_words,  # (2)
        "single_byte_frac": single / n_tokens,  # (3)
        "used_vocab_frac": sum(count > 0 for count in counts) / tokenizer.vocab_size,
    }


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
