"""Laws of the family llm.data.chunking: every kind obeys them, whatever the text and however it is tokenised."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm import registry
from llm.data.chunking.base import Chunker, Chunks
from llm.data.pieces import chunk_documents
from llm.data.token_text import TokenText
from llm.params import ParamsError, from_dict

FAMILY = "llm.data.chunking"
KINDS = registry.kinds(FAMILY)
OVERLAPPING = ["paragraph", "sentence", "sliding", "structure"]
BITS = [
    "word ", "Mr. Smith ", "ran. ", "Did it?\" ", "yes! ", "line\n", "\n\n", "# Title\n", "\n## Part\n",
    "```\n", "```py\ncode()\n\n\nmore\n```\n", "~~~\n", "def f(x):\n", "@cache\n", "class A {\n",
    "你好。", "什么？", "……", "é", "🙂", "   ", "\t", "a" * 30, ".", "…",
]  # fmt: skip


def chunker(kind: str, overlap: int = 0) -> Chunker:
    options: dict[str, Any] = {"overlap": overlap} if kind in OVERLAPPING else {}
    built: Chunker = registry.build(from_dict(registry.module(FAMILY, kind).Config, options, kind))
    return built


@st.composite
def texts(draw: st.DrawFn) -> TokenText:
    """A text and tokens of random widths, some of which begin inside a character."""
    text = "".join(draw(st.lists(st.sampled_from(BITS), min_size=1, max_size=60)))
    widths = draw(st.lists(st.sampled_from([1, 1, 2, 3, 5, 0]), min_size=len(text), max_size=len(text)))
    starts = np.minimum(np.concatenate(([0], np.cumsum(widths))), len(text))
    return TokenText(text, starts)


def test_members() -> None:
    assert {"fixed", "sliding", "sentence", "paragraph", "structure", "truncate"} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(text=texts(), size=st.integers(2, 40), data=st.data())
def test_chunks_cover_the_document_in_order(
    kind: str, text: TokenText, size: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    method = chunker(kind, overlap)
    n = len(text.starts_T) - 1
    chunks = method.cut(n, size, text)
    assert all(0 <= start < end <= n and end - start <= size for start, end in chunks)
    assert chunks[0][0] == 0
    for (left, end), (start, right) in pairwise(chunks):
        assert start == max(0, end - method.overlap)  # the overlap is exactly as asked
        assert left <= start < right
        assert end < right  # something new in each
    if method.covers:
        assert chunks[-1][1] == n
    assert method.cut(n, size, text) == chunks


def own_parts(chunks: Chunks) -> list[tuple[int, int]]:
    """Each chunk without what the one before has read."""
    return [(0, chunks[0][1]), *((end, right) for (_, end), (_, right) in pairwise(chunks))]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "truncate"])
@settings(max_examples=50, deadline=None)
@given(text=texts(), size=st.integers(4, 40))
def test_without_the_overlap_the_chunks_are_the_text(kind: str, text: TokenText, size: int) -> None:
    n = len(text.starts_T) - 1
    borders = np.append(text.starts_T[:n], len(text.text))
    parts = own_parts(chunker(kind, overlap=3).cut(n, size, text))
    assert "".join(text.text[borders[start] : borders[end]] for start, end in parts) == text.text


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(0, 60), min_size=1, max_size=8), seq_len=st.integers(4, 20))
def test_every_target_is_scored_once_or_truncated(kind: str, lengths: list[int], seq_len: int) -> None:
    method = chunker(kind, overlap=3)
    words = TokenText("a " * 60, np.arange(0, 120, 2))
    pieces = chunk_documents(np.array(lengths), seq_len, method, lambda doc: words)
    scored = []
    for doc, start, length, context in zip(
        pieces.docs.tolist(),
        pieces.starts.tolist(),
        pieces.lengths.tolist(),
        pieces.contexts.tolist(),
        strict=True,
    ):
        assert length <= seq_len + 1
        assert context >= 1
        scored += [(doc, place) for place in range(start + context, start + length)]
    longest = {True: 60, False: seq_len + 1}[method.covers]
    assert scored == [
        (doc, at) for doc, length in enumerate(lengths) for at in range(1, min(length, longest))
    ]


@pytest.mark.parametrize("kind", OVERLAPPING)
def test_overlaps_below_zero_are_refused(kind: str) -> None:
    with pytest.raises(ParamsError, match=r"overlap \(-1\) must not be negative"):
        chunker(kind, -1)
