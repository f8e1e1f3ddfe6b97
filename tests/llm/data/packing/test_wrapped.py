import numpy as np

from llm.data.packing import wrapped

STRATEGY = wrapped.build(wrapped.Config())


def cut(lengths: list[int], capacity: int) -> list[tuple[int, int, int]]:
    """(document, first token, tokens) of every piece."""
    pieces = STRATEGY.cut(np.array(lengths), capacity)
    return list(zip(pieces.docs.tolist(), pieces.starts.tolist(), pieces.lengths.tolist(), strict=True))


def test_by_hand() -> None:
    # Stream 0123 012 01; rows of 4: 0123 | 3 012 | 2 01. The lone 3 and 2 have nothing to predict.
    assert cut([4, 3, 2], 4) == [(0, 0, 4), (1, 0, 3), (2, 0, 2)]
    # Stream 01 01234 0: rows 01 01 | 1234 | 4 0; a document of one token stays, and is dropped for want of targets.
    assert cut([2, 5, 1], 4) == [(0, 0, 2), (1, 0, 2), (1, 1, 4), (2, 0, 1)]


def test_a_document_over_many_rows() -> None:
    assert cut([10], 4) == [(0, 0, 4), (0, 3, 4), (0, 6, 4)]
    assert cut([11], 4) == [(0, 0, 4), (0, 3, 4), (0, 6, 4), (0, 9, 2)]


def test_rows_are_windows_of_the_stream() -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(2, 90, size=200)
    pieces = STRATEGY.cut(lengths, 33)
    rows_P = STRATEGY.assign(pieces.lengths, 33)
    stream_P = np.concatenate(([0], np.cumsum(lengths)))[pieces.docs] + pieces.starts
    n_rows = int(rows_P.max()) + 1
    assert n_rows == -(-(lengths.sum() - 1) // 32)
    assert (stream_P // 32 == rows_P).all()  # each piece lies in the row its place in the stream belongs to
    fills = np.bincount(rows_P, weights=pieces.lengths)
    assert (fills[:-1] >= 31).all()  # at most the border tokens of both ends are missing
