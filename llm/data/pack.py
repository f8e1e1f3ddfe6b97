"""pack: documents to rows of seq_len + 1 tokens, several documents to a row, none of them mixed.

    data/packed/<set>/
      rows.bin        [n_rows, seq_len + 1] token ids, u16 or u32 as in the encoded set
      segments.bin    [n_rows, seq_len + 1] u16, number of the document within its row from 1, 0 = padding
      mask.bin        [n_rows, seq_len + 1] u8, 1 = this token is a scored target
      meta.json       n_rows, seq_len, dtype, vocab_size, tokenizer_hash, fill_frac, set, split

A row gives seq_len inputs and, one place to the right, seq_len targets. A longer document of the pretrain set
is cut into pieces; each piece begins with the last token of the piece before, or with more, as context that is
not scored, so that every target is scored exactly once. A longer example of another set loses its end.

Equations   (1) in docs/data/pack.md; comments below carry the same numbers.
Shapes      P pieces, R rows, W = seq_len + 1 tokens a row, N tokens of a chunk of rows
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from llm import registry
from llm.data.chunking import truncate
from llm.data.chunking.base import Chunker
from llm.data.encoded import EncodedSet, check_tokenizer, dtype_of
from llm.data.mixing.base import read_order, realised
from llm.data.packing.base import Cutter, Strategy
from llm.data.pieces import Pieces, chunk_documents, has_target, repeat_documents
from llm.data.token_text import TextReader
from llm.params import Family
from llm.runtime import atomic_file, output_dir, progress, write_json
from llm.tokenizer.base import load_tokenizer

SPLIT_SETS = ("pretrain",)  # sets whose long documents are cut into pieces; the others are truncated
MIXED_SETS = (
    "pretrain",
)  # sets whose kinds of documents are mixed; of the others each document is read once
MAX_SEQ_LEN = (1 << 16) - 2  # segment numbers are 16 bits wide
_ROWS_PER_CHUNK = 1 << 14


@dataclass(frozen=True, kw_only=True)
class PackParams:
    """seq_len: tokens the model reads at once in training (a row stores one more, the last target).

    mix: which documents are read how often. chunk: how a document longer than a row is cut; both for the
    pretrain set alone. strategy: which pieces share a row.
    """

    seq_len: int
    mix: Annotated[Any, Family("llm.data.mixing")]
    chunk: Annotated[Any, Family("llm.data.chunking")]
    strategy: Annotated[Any, Family("llm.data.packing")]

    def __post_init__(self) -> None:
        if not 1 <= self.seq_len <= MAX_SEQ_LEN:
            raise ValueError(f"seq_len ({self.seq_len}) must be between 1 and {MAX_SEQ_LEN}")
        overlap = registry.build(self.chunk).overlap
        if overlap >= self.seq_len:
            raise ValueError(f"chunk.overlap ({overlap}) must be less than seq_len ({self.seq_len})")
        strategy, chunk = registry.kind_of(self.strategy), registry.kind_of(self.chunk)
        if isinstance(registry.build(self.strategy), Cutter) and chunk != "fixed":
            raise ValueError(
                f"chunk.kind ({chunk}) must be fixed: strategy {strategy} cuts documents where rows end"
            )


def pack_set(
    set_name: str, source: Path, out: Path, params: PackParams, *, tokenizer: Path, seed: int
) -> dict[str, Any]:
    """Pack an encoded split of a set into `out` and return the counts.

    tokenizer: read only by a chunker that cuts by the text. seed: which documents a mixture repeats.

    Raises:
        ValueError: the split belongs to another set, nothing in it is scored, or a mixture wants no document.
    """
    encoded = EncodedSet.open(source)
    if encoded.meta["set"] != set_name:
        raise ValueError(
            f"{source}/meta.json: set is '{encoded.meta['set']}', expected '{set_name}'; fix --input"
        )
    width = params.seq_len + 1
    lengths_D = np.diff(encoded.offsets.astype(np.int64))
    order_N, mix = _mix(encoded, lengths_D, params, seed)
    strategy: Strategy = registry.build(params.strategy)
    if isinstance(strategy, Cutter):
        cut = strategy.cut(lengths_D[order_N], width)
        cut = replace(cut, docs=order_N[cut.docs])
    else:
        cut = repeat_documents(_chunk(encoded, lengths_D, params, tokenizer), order_N)
    pieces = cut.pick(has_target(cut, _starts(encoded, cut), encoded.loss_mask))
    if not len(pieces):
        raise ValueError(
            f"{source}: no scored token in the first {width} of any document; raise pack.seq_len"
        )
    rows_P = strategy.assign(pieces.lengths, width)
    counts = _write(out, encoded, pieces, rows_P, params.seq_len)
    return {
        **_funnel(lengths_D, order_N, cut, width),
        "n_dropped_unscored": len(cut) - len(pieces),
        **counts,
        **mix,
    }


def _write(
    out: Path, encoded: EncodedSet, pieces: Pieces, rows_P: np.ndarray, seq_len: int
) -> dict[str, int | float]:
    """Write a packed folder and return what is in it."""
    n_rows = int(rows_P.max()) + 1
    fill_frac = int(pieces.lengths.sum()) / (n_rows * (seq_len + 1))
    kept = {key: encoded.meta[key] for key in ("set", "split", "dtype", "vocab_size", "tokenizer_hash")}
    with output_dir(out) as folder:
        n_scored = _write_rows(folder, encoded, pieces, rows_P, seq_len + 1)
        meta = {**kept, "n_rows": n_rows, "seq_len": seq_len, "fill_frac": fill_frac}
        write_json(folder / "meta.json", meta)
    return {
        "n_pieces": len(pieces),
        "n_rows": n_rows,
        "n_scored": n_scored,
        "fill_frac": fill_frac,
        "scored_frac": n_scored / (n_rows * seq_len),
    }


def _funnel(lengths_D: np.ndarray, order_N: np.ndarray, cut: Pieces, width: int) -> dict[str, int]:
    """What came in, what is read once more as context, and what was lost to truncation."""
    ends_D = np.zeros_like(lengths_D)
    np.maximum.at(ends_D, cut.docs, cut.starts + cut.lengths)
    return {
        "n_docs": len(lengths_D),
        "n_tokens": int(lengths_D.sum()),
        "n_long_docs": int((lengths_D > width).sum()),
        "n_context_tokens": int(cut.contexts[cut.starts > 0].sum()),
        "n_truncated_tokens": int((lengths_D - ends_D)[order_N].sum()),
    }


# ---------------------------------------------------------------- documents to pieces


def _mix(
    encoded: EncodedSet, lengths_D: np.ndarray, params: PackParams, seed: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Documents as they are read, and for a mixed set what the metrics say about it."""
    if encoded.meta["set"] not in MIXED_SETS:
        return np.arange(len(lengths_D)), {}
    kinds_D = [record["kind"] for record in encoded.docs]
    tokens: dict[str, int] = dict.fromkeys(sorted(set(kinds_D)), 0)
    for kind, length in zip(kinds_D, lengths_D.tolist(), strict=True):
        tokens[kind] += length
    wanted = registry.build(params.mix).wanted(tokens)
    order_N = read_order(kinds_D, lengths_D, wanted, seed)
    if not len(order_N):
        raise ValueError(f"{encoded.folder}: the mixture wants no document; raise pack.mix.total_frac")
    return order_N, {"mix": realised(kinds_D, lengths_D, order_N, wanted)}


def _chunk(encoded: EncodedSet, lengths_D: np.ndarray, params: PackParams, tokenizer: Path) -> Pieces:
    """The documents of a split set cut by the chosen chunker, of another set truncated."""
    split = encoded.meta["set"] in SPLIT_SETS
    chunker: Chunker = registry.build(params.chunk) if split else truncate.build(truncate.Config())
    if not chunker.reads_text:
        return chunk_documents(lengths_D, params.seq_len, chunker)
    loaded = load_tokenizer(tokenizer)
    check_tokenizer(encoded.meta, loaded.hash, encoded.folder, tokenizer)
    reader = TextReader(loaded)
    return chunk_documents(lengths_D, params.seq_len, chunker, lambda doc: reader.read(encoded.doc(doc)))


def _starts(encoded: EncodedSet, pieces: Pieces) -> np.ndarray:
    """Where each piece starts in the tokens of the set."""
    return encoded.offsets[pieces.docs].astype(np.int64) + pieces.starts


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
    lengths_P, starts_P = pieces.lengths, _starts(encoded, pieces)
    ends_P = np.cumsum(lengths_P)
    before_P = ends_P - lengths_P  # tokens of all earlier pieces, within the chunk
    row_starts_R = np.searchsorted(rows_P, np.arange(n_rows))  # first piece of each row
    column_P = before_P - before_P[row_starts_R][rows_P]
    segment_P = np.arange(len(rows_P)) - row_starts_R[rows_P] + 1

    nth_N = np.arange(int(ends_P[-1])) - np.repeat(before_P, lengths_P)  # place of each token in its piece
    to_N = np.repeat(rows_P * width + column_P, lengths_P) + nth_N
    from_N = np.repeat(starts_P, lengths_P) + nth_N

    rows = np.zeros(n_rows * width, dtype=dtype_of(encoded.meta["dtype"]))
    segments = np.zeros(n_rows * width, dtype="<u2")
    mask = np.zeros(n_rows * width, dtype=np.uint8)
    rows[to_N] = encoded.tokens[from_N]
    segments[to_N] = np.repeat(segment_P, lengths_P)
    mask[to_N] = encoded.loss_mask[from_N] * (nth_N >= np.repeat(pieces.contexts, lengths_P))  # (1)
    return rows, segments, mask
