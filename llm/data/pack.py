"""pack: documents to rows of seq_len + 1 tokens, several documents to a row, none of them mixed.

    data/packed/<set>/
      rows.bin        [n_rows, seq_len + 1] token ids, u16 or u32 as in the encoded set
      segments.bin    [n_rows, seq_len + 1] u16, number of the document within its row from 1, 0 = padding
      mask.bin        [n_rows, seq_len + 1] u8, 1 = this token is a scored target
      meta.json       n_rows, seq_len, dtype, vocab_size, tokenizer_hash, fill_frac, set, split

A row gives seq_len inputs and, one place to the right, seq_len targets. A longer document of the pretrain set
is cut into pieces; each piece begins with the last token of the piece before, unscored, so that every target
is scored exactly once. A longer example of another set loses its end.

Equations   (1)-(2) in docs/data/pack.md; comments below carry the same numbers.
Shapes      P pieces, R rows, W = seq_len + 1 tokens a row, N tokens of a chunk of rows
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from llm import registry
from llm.data.encoded import EncodedSet, dtype_of
from llm.params import Family
from llm.runtime import atomic_file, output_dir, progress, write_json

SPLIT_SETS = ("pretrain",)  # sets whose long documents are cut into pieces; the others are truncated
MAX_SEQ_LEN = (1 << 16) - 2  # segment numbers are 16 bits wide
_ROWS_PER_CHUNK = 1 << 14


@dataclass(frozen=True, kw_only=True)
class PackParams:
    """seq_len: tokens the model reads at once in training (a row stores one more, the last target)."""

    seq_len: int
    strategy: Annotated[Any, Family("llm.data.packing")]

    def __post_init__(self) -> None:
        if not 1 <= self.seq_len <= MAX_SEQ_LEN:
            raise ValueError(f"seq_len ({self.seq_len}) must be between 1 and {MAX_SEQ_LEN}")


@dataclass(frozen=True)
class Pieces:
    """Stretches of tokens.bin that stay together: where each starts and how many tokens it has, int64 [P]."""

    starts: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    def pick(self, which: np.ndarray) -> "Pieces":
        """The pieces at an index or boolean array."""
        return Pieces(self.starts[which], self.lengths[which])


def pack_set(set_name: str, source: Path, out: Path, params: PackParams) -> dict[str, Any]:
    """Pack an encoded split of a set into `out` and return the counts.

    Raises:
        ValueError: the split belongs to another set, or nothing in it is scored.
    """
    encoded = EncodedSet.open(source)
    if encoded.meta["set"] != set_name:
        raise ValueError(
            f"{source}/meta.json: set is '{encoded.meta['set']}', expected '{set_name}'; fix --input"
        )
    width = params.seq_len + 1
    cut = (split_documents if set_name in SPLIT_SETS else truncate_documents)(encoded.offsets, width)
    pieces = cut.pick(has_target(cut, encoded.loss_mask))
    if not len(pieces):
        raise ValueError(
            f"{source}: no scored token in the first {width} of any document; raise pack.seq_len"
        )
    rows_P = registry.build(params.strategy).assign(pieces.lengths, width)
    n_rows = int(rows_P.max()) + 1
    fill_frac = int(pieces.lengths.sum()) / (n_rows * width)
    kept = ("set", "split", "dtype", "vocab_size", "tokenizer_hash")
    meta = {key: encoded.meta[key] for key in kept}
    with output_dir(out) as folder:
        n_scored = _write_rows(folder, encoded, pieces, rows_P, width)
        write_json(
            folder / "meta.json",
            {**meta, "n_rows": n_rows, "seq_len": params.seq_len, "fill_frac": fill_frac},
        )
    return {
        **_funnel(encoded, cut, width, truncated=set_name not in SPLIT_SETS),
        "n_dropped_unscored": len(cut) - len(pieces),
        "n_pieces": len(pieces),
        "n_rows": n_rows,
        "n_scored": n_scored,
        "fill_frac": fill_frac,
        "scored_frac": n_scored / (n_rows * params.seq_len),
    }


def _funnel(encoded: EncodedSet, cut: "Pieces", width: int, *, truncated: bool) -> dict[str, int]:
    """What came in, and what was lost to truncation."""
    lengths_D = np.diff(encoded.offsets.astype(np.int64))
    return {
        "n_docs": len(encoded),
        "n_tokens": len(encoded.tokens),
        "n_long_docs": int((lengths_D > width).sum()),
        "n_truncated_tokens": len(encoded.tokens) - int(cut.lengths.sum()) if truncated else 0,
    }


# ---------------------------------------------------------------- documents to pieces


def split_documents(offsets: np.ndarray, width: int) -> Pieces:
    """Cut documents into pieces of at most `width` tokens that overlap by one (1)."""
    starts_D, lengths_D = offsets[:-1].astype(np.int64), np.diff(offsets.astype(np.int64))
    step = width - 1
    counts_D = np.maximum(
        -(-(lengths_D - 1) // step), 1
    )  # ceil((n - 1) / seq_len) pieces, as many as targets need
    doc_P = np.repeat(np.arange(len(starts_D)), counts_D)
    nth_P = np.arange(len(doc_P)) - np.repeat(np.cumsum(counts_D) - counts_D, counts_D)
    return Pieces(starts_D[doc_P] + nth_P * step, np.minimum(lengths_D[doc_P] - nth_P * step, width))


def truncate_documents(offsets: np.ndarray, width: int) -> Pieces:
    """One piece a document: its first `width` tokens."""
    return Pieces(offsets[:-1].astype(np.int64), np.minimum(np.diff(offsets.astype(np.int64)), width))


def has_target(pieces: Pieces, loss_mask: np.ndarray) -> np.ndarray:
    """True for each piece with a scored token after its first, bool [P]."""
    spans = zip(pieces.starts.tolist(), pieces.lengths.tolist(), strict=True)
    return np.fromiter(
        (loss_mask[start + 1 : start + length].any() for start, length in spans), bool, len(pieces)
    )


# ---------------------------------------------------------------- pieces to rows


def _write_rows(folder: Path, encoded: EncodedSet, pieces: Pieces, rows_P: np.ndarray, width: int) -> int:
    """Write the three arrays, chunk by chunk; returns how many targets are scored."""
    n_scored = 0
    with (
        atomic_file(folder / "rows.bin", "wb") as rows_file,
        atomic_file(folder / "segments.bin", "wb") as segments_file,
        atomic_file(folder / "mask.bin", "wb") as mask_file,
    ):
        chunks = -(-(int(rows_P.max()) + 1) // _ROWS_PER_CHUNK)
        for rows, segments, mask in progress(lay_rows(encoded, pieces, rows_P, width), "pack", total=chunks):
            rows_file.write(rows.tobytes())
            segments_file.write(segments.tobytes())
            mask_file.write(mask.tobytes())
            n_scored += int(mask.sum(dtype=np.int64))
    return n_scored


def lay_rows(
    encoded: EncodedSet, pieces: Pieces, rows_P: np.ndarray, width: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Token, segment and mask arrays [rows of a chunk, W]; the pieces of a row in the order of the corpus."""
    order_P = np.argsort(rows_P, kind="stable")
    rows_P = rows_P[order_P]
    n_rows = int(rows_P[-1]) + 1
    for first in range(0, n_rows, _ROWS_PER_CHUNK):
        last = min(first + _ROWS_PER_CHUNK, n_rows)
        here = slice(*np.searchsorted(rows_P, [first, last]).tolist())
        yield _lay_chunk(encoded, pieces.pick(order_P[here]), rows_P[here] - first, last - first, width)


def _lay_chunk(
    encoded: EncodedSet, pieces: Pieces, rows_P: np.ndarray, n_rows: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    lengths_P = pieces.lengths
    ends_P = np.cumsum(lengths_P)
    before_P = ends_P - lengths_P  # tokens of all earlier pieces, within the chunk
    row_starts_R = np.searchsorted(rows_P, np.arange(n_rows))  # first piece of each row
    column_P = before_P - before_P[row_starts_R][rows_P]
    segment_P = np.arange(len(rows_P)) - row_starts_R[rows_P] + 1

    nth_N = np.arange(int(ends_P[-1])) - np.repeat(before_P, lengths_P)  # place of each token in its piece
    to_N = np.repeat(rows_P * width + column_P, lengths_P) + nth_N
    from_N = np.repeat(pieces.starts, lengths_P) + nth_N

    rows = np.zeros(n_rows * width, dtype=dtype_of(encoded.meta["dtype"]))
    segments = np.zeros(n_rows * width, dtype="<u2")
    mask = np.zeros(n_rows * width, dtype=np.uint8)
    rows[to_N] = encoded.tokens[from_N]
    segments[to_N] = np.repeat(segment_P, lengths_P)
    mask[to_N] = encoded.loss_mask[from_N] * (nth_N > 0)  # (2) the first token of a segment has no context
    return rows, segments, mask
