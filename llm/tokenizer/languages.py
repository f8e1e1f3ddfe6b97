"""languages: how well one vocabulary serves each of the languages of a corpus.

Equations   (1)-(4) in docs/tokenizer/languages.md
"""

from collections import Counter
from collections.abc import Iterable

from llm.data.script import language
from llm.data.words import words
from llm.tokenizer.base import Tokenizer
from llm.tokenizer.quality import batches


def measure_languages(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, dict[str, float]]:
    """Language -> documents, bytes, tokens and what follows from them; only languages that occur."""
    tokens: dict[str, Counter[int]] = {}
    sizes: dict[str, Counter[str]] = {}
    for batch in batches(texts):
        for text, ids in zip(batch, tokenizer.encode_batch(batch), strict=True):
            name = language(text)
            tokens.setdefault(name, Counter()).update(ids)
            sizes.setdefault(name, Counter()).update(
                docs=1, bytes=len(text.encode()), chars=len(text), words=len(words(text))
            )
    pieces = tokenizer.piece_bytes
    return {name: _numbers(tokens[name], sizes[name], pieces) for name in sorted(tokens)}


def _numbers(tokens: Counter[int], size: Counter[str], pieces: list[bytes]) -> dict[str, float]:
    n_tokens = max(1, tokens.total())
    whole = sum(count * len(pieces[index]) for index, count in tokens.items() if is_whole(pieces[index]))
    spelled = sum(count * len(pieces[index]) for index, count in tokens.items())
    return {
        "n_docs": size["docs"],
        "n_bytes": size["bytes"],
        "n_tokens": tokens.total(),
        "bytes_per_token": size["bytes"] / n_tokens,  # (1)
        "chars_per_token": size["chars"] / n_tokens,  # (2)
        "fertility": tokens.total() / max(1, size["words"]),  # (3)
        "covered_frac": whole / max(1, spelled),  # (4)
        "used_pieces": len(tokens),
    }


def is_whole(piece: bytes) -> bool:
    """True when the bytes of a piece are whole characters, not parts of them."""
    try:
        piece.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
