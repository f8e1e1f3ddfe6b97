"""perplexity: bits per byte of whole documents, every text token scored exactly once.

Equations   (1)-(3) in docs/eval/perplexity.md; comments below carry the same numbers.
Source      Gao et al. 2020, The Pile, arXiv 2101.00027, section 3.1 (bits per byte); the windows are the
            strided ones usual for fixed-context models
Cost        one forward pass; a document longer than seq_len is read seq_len / stride times
Differs     from lm-eval's rolling score: windows overlap (stride < seq_len), so that no token is scored
            with an empty context except the first
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llm.eval.scoring import Row, score_rows
from llm.nn.model import Decoder

ScoredDocument = tuple[Sequence[int], int, str]


@dataclass(frozen=True)
class DocumentScore:
    """nats: -log p of the text tokens; n_tokens: how many they are; n_bytes: UTF-8 bytes of the raw text."""

    kind: str
    nats: float
    n_bytes: int
    n_tokens: int


def bits_per_byte(
    model: Decoder,
    docs: Iterable[ScoredDocument],
    *,
    seq_len: int,
    stride: int | None = None,
    batch_rows: int = 8,
) -> dict[str, float]:
    """Bits per byte of every kind of document and of "all" together (3).

    docs: `(ids, n_bytes, kind)` with ids = [eot] text [eot]. The first token is only context. The closing
    <|endoftext|> (a last token equal to the first) is *not* scored: bytes are those of the text alone, so
    its nats would count for no byte, and the number stays comparable with other implementations.
    """
    return summarise(score_documents(model, docs, seq_len=seq_len, stride=stride, batch_rows=batch_rows))


def summarise(scores: Sequence[DocumentScore]) -> dict[str, float]:
    """Corpus bits per byte by kind and of all documents: a ratio of sums, never a mean of ratios (3)."""
    groups: dict[str, list[DocumentScore]] = {}
    for score in scores:
        groups.setdefault(score.kind, []).append(score)
    return {kind: ratio(groups[kind])[0] for kind in sorted(groups)} | {"all": ratio(scores)[0]}


def ratio(scores: Sequence[DocumentScore]) -> tuple[float, float]:
    """Bits per byte and its standard error over documents (delta method for a ratio of sums).

    With R = sum(nats) / sum(bytes) the residuals nats - R bytes sum to 0; one document gives no error (nan).
    """
    n, n_bytes = len(scores), sum(score.n_bytes for score in scores)
    if not n_bytes:
        raise ValueError("eval.perplexity: no bytes to score (all documents empty); check the validation set")
    rate = math.fsum(score.nats for score in scores) / n_bytes
    if n == 1:
        return rate / math.log(2), math.nan
    squares = math.fsum((score.nats - rate * score.n_bytes) ** 2 for score in scores)
    return rate / math.log(2), math.sqrt(n / (n - 1) * squares) / n_bytes / math.log(2)


def score_documents(
    model: Decoder,
    docs: Iterable[ScoredDocument],
    *,
    seq_len: int,
    stride: int | None = None,
    batch_rows: int = 8,
    label: str | None = None,
) -> list[DocumentScore]:
    """Nats of each document, in the order given; `bits_per_byte` explains what is scored.

    Args:
        seq_len: tokens a window holds. stride: new tokens per further window (default 3/4 seq_len), so that
            each token but those of the first window has at least seq_len - stride tokens of context.
        batch_rows: a batch holds about batch_rows * seq_len tokens. label: shows a progress bar of that name.
    """
    documents = [(_text_tokens(ids), n_bytes, kind) for ids, n_bytes, kind in docs]
    windows = [window for i, doc in enumerate(documents) for window in _windows(i, doc[0], seq_len, stride)]
    rows = [row for _, row in windows]
    nats = [0.0] * len(documents)
    for (i, _), score in zip(
        windows, score_rows(model, rows, batch_tokens=batch_rows * seq_len, label=label), strict=True
    ):
        nats[i] -= float(score.logps.sum())  # (1)
    return [
        DocumentScore(kind=kind, nats=value, n_bytes=n_bytes, n_tokens=max(len(ids) - 1, 0))
        for value, (ids, n_bytes, kind) in zip(nats, documents, strict=True)
    ]


def _text_tokens(ids: Sequence[int]) -> Sequence[int]:
    """[eot] text: the closing eot removed, where there is one."""
    return ids[:-1] if len(ids) > 1 and ids[-1] == ids[0] else ids


def _windows(document: int, ids: Sequence[int], seq_len: int, stride: int | None) -> list[tuple[int, Row]]:
    """(document, row) for windows that together score every target ids[1:] once."""
    step = stride or max(seq_len * 3 // 4, 1)
    if not 1 <= step <= seq_len:
        raise ValueError(f"eval.stride: {step} must be from 1 to seq_len ({seq_len})")
    n_inputs, scored, windows = len(ids) - 1, 0, []
    while scored < n_inputs:
        end = min(n_inputs, scored + (step if scored else seq_len))
        windows.append((document, Row(ids[max(0, end - seq_len) : end + 1], end - scored)))  # (2)
        scored = end
    return windows
