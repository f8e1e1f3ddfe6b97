import numpy as np

from llm.data.chunking import fixed, sliding
from llm.data.pieces import Pieces, chunk_documents, has_target, repeat_documents


def spans(pieces: Pieces) -> list[tuple[int, ...]]:
    fields = (pieces.docs, pieces.starts, pieces.lengths, pieces.contexts)
    return list(zip(*(field.tolist() for field in fields), strict=True))


def test_by_hand() -> None:
    lengths = np.array([3, 12, 0, 5])
    assert spans(chunk_documents(lengths, 4, fixed.build(fixed.Config()))) == [
        (0, 0, 3, 1), (1, 0, 5, 1), (1, 4, 5, 1), (1, 8, 4, 1), (2, 0, 0, 1), (3, 0, 5, 1),
    ]  # fmt: skip
    assert spans(chunk_documents(lengths, 4, sliding.build(sliding.Config(overlap=2))))[1:5] == [
        (1, 0, 5, 1), (1, 2, 5, 3), (1, 4, 5, 3), (1, 6, 5, 3),
    ]  # fmt: skip


def test_documents_are_read_only_when_they_are_long() -> None:
    class Reads(fixed.Fixed):
        reads_text = True

    asked: list[int] = []
    chunk_documents(np.array([3, 12, 5, 6]), 4, Reads(fixed.Config()), lambda doc: asked.append(doc))  # type: ignore[arg-type,return-value,func-returns-value]
    assert asked == [1, 3]


def test_repeating() -> None:
    pieces = chunk_documents(np.array([3, 9, 2]), 4, fixed.build(fixed.Config()))
    repeated = repeat_documents(pieces, np.array([2, 1, 1, 2]))
    assert spans(repeated) == [
        (2, 0, 2, 1), (1, 0, 5, 1), (1, 4, 5, 1), (1, 0, 5, 1), (1, 4, 5, 1), (2, 0, 2, 1),
    ]  # fmt: skip
    assert spans(repeat_documents(pieces, np.arange(3))) == spans(pieces)


def test_a_target_after_the_context_counts() -> None:
    pieces = Pieces(np.array([0, 0, 1]), np.array([0, 2, 0]), np.array([4, 3, 2]), np.array([1, 2, 1]))
    mask = np.array([1, 1, 0, 1, 0, 1, 0])
    assert has_target(pieces, np.array([0, 2, 5]), mask).tolist() == [True, False, False]
