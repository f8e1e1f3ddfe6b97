"""perplexity: bits per byte of whole documents, every text token scored exactly once.

Equations   (1)-(3) in docs/eval/perplexity.md; comments below carry the same numbers.
Source      Gao et al. 2020, The Pile, arXiv 2101.00027, section 3.1 (bits per byte); the windows are the
            strided ones usual for fixed-context models
Cost        one forward pass; a document longer than seq_len is read seq_len / stride times
Differs     from lm-eval's rolling score: windows overlap (stride < seq_len), so that no token is scored
            with an empty context except the first
Shapes      B batch, T tokens of a window, M scored tokens, V vocabulary
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from llm.nn.model import Decoder
from llm.runtime import progress

ScoredDocument = tuple[Sequence[int], int, str]
_HEAD_CHUNK = 2048  # scored positions per head product: bounds the logits to 2048 x V numbers


@dataclass(frozen=True)
class DocumentScore:
    """nats: -log p of the text tokens; n_tokens: how many they are; n_bytes: UTF-8 bytes of the raw text."""

    kind: str
    nats: float
    n_bytes: int
    n_tokens: int


@dataclass(frozen=True)
class _Window:
    """Inputs ids[begin:end] of a document; the last `n_scored` of its targets ids[begin+1:end+1] count."""

    document: int
    begin: int
    end: int
    n_scored: int

    def __len__(self) -> int:
        return self.end - self.begin


def bits_per_byte(
    model: Decoder,
    docs: Iterable[ScoredDocument],
    *,
    seq_len: int,
    stride: int | None = None,
    batch_rows: int = 32,
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
    batch_rows: int = 32,
    label: str | None = None,
) -> list[DocumentScore]:
    """Nats of each document, in the order given; `bits_per_byte` explains what is scored.

    Args:
        seq_len: tokens a window holds. stride: new tokens per further window (default seq_len // 2), so that
            each token but those of the first window has at least seq_len - stride tokens of context.
        batch_rows: a batch holds about batch_rows * seq_len tokens. label: shows a progress bar of that name.
    """
    documents = [(_text_tokens(ids), n_bytes, kind) for ids, n_bytes, kind in docs]
    windows = [w for i, doc in enumerate(documents) for w in _windows(i, len(doc[0]), seq_len, stride)]
    batches = _batches(windows, batch_rows * seq_len)
    nats = [0.0] * len(documents)
    was_training = model.training
    model.eval()
    try:
        for batch in progress(batches, label) if label else batches:
            for window, value in zip(batch, _score(model, documents, batch), strict=True):
                nats[window.document] += value
    finally:
        model.train(was_training)
    return [
        DocumentScore(kind=kind, nats=value, n_bytes=n_bytes, n_tokens=max(len(ids) - 1, 0))
        for value, (ids, n_bytes, kind) in zip(nats, documents, strict=True)
    ]


def _text_tokens(ids: Sequence[int]) -> Sequence[int]:
    """[eot] text: the closing eot removed, where there is one."""
    return ids[:-1] if len(ids) > 1 and ids[-1] == ids[0] else ids


def _windows(document: int, n_tokens: int, seq_len: int, stride: int | None) -> list[_Window]:
    """Windows over the inputs 0 .. n_tokens - 2; together they score the targets 1 .. n_tokens - 1 once."""
    step = stride or max(seq_len // 2, 1)
    if not 1 <= step <= seq_len:
        raise ValueError(f"eval.stride: {step} must be from 1 to seq_len ({seq_len})")
    n_inputs, scored, windows = n_tokens - 1, 0, []
    while scored < n_inputs:
        end = min(n_inputs, scored + (step if scored else seq_len))
        windows.append(_Window(document, max(0, end - seq_len), end, end - scored))  # (2)
        scored = end
    return windows


def _batches(windows: list[_Window], n_tokens: int) -> list[list[_Window]]:
    """Longest first, like lengths together; a batch holds at most `n_tokens`, padding included."""
    batches: list[list[_Window]] = []
    for window in sorted(windows, key=len, reverse=True):  # stable: equal lengths keep document order
        if not batches or (len(batches[-1]) + 1) * len(batches[-1][0]) > n_tokens:
            batches.append([])
        batches[-1].append(window)
    return batches


@torch.no_grad()
def _score(
    model: Decoder, documents: Sequence[tuple[Sequence[int], int, str]], batch: Sequence[_Window]
) -> list[float]:
    """Nats of the scored targets of each window (1). Padding stands on the right, where no token looks."""
    device = model.embedding.weight.device
    width = len(batch[0])
    tokens_BT = torch.zeros(len(batch), width + 1, dtype=torch.long)
    scored_BT = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, window in enumerate(batch):
        ids = documents[window.document][0][window.begin : window.end + 1]
        tokens_BT[row, : len(ids)] = torch.as_tensor(ids)
        scored_BT[row, len(window) - window.n_scored : len(window)] = True
    tokens_BT, scored_BT = tokens_BT.to(device), scored_BT.to(device)
    h_MD = model.hidden(tokens_BT[:, :-1])[0][scored_BT]  # only scored positions go through the head
    targets_M = tokens_BT[:, 1:][scored_BT]
    losses = [
        F.cross_entropy(model.head(h).float(), t, reduction="none")
        for h, t in zip(h_MD.split(_HEAD_CHUNK), targets_M.split(_HEAD_CHUNK), strict=True)
    ]
    per_window = torch.cat(losses).double().split([window.n_scored for window in batch])
    return [float(part.sum()) for part in per_window]
