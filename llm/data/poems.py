"""poems: JSON files of the package chinese-poetry -> documents of several poems each.

A poem of 90 characters is too short to be a document: a length filter would drop nearly all of them, and packing
would show a model the end of a text every other line. So the poems of one author, in the order of the file, are
put together until they have `min_chars` characters. The same author never stands on both sides of the split.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from llm.data.document import Document

ANONYMOUS = "无名氏"
LICENCE = "public domain"  # of the poems; the package around them is under the MIT licence

# Below package/dist. Left out: ci.song.2019y and 宋词三百首 (selections of the same poems), author.song (prose
# about the authors, written today), wenzimengqiu (a list of characters, many of them missing), and the 333,863
# poems of quantangshi: seven times as much as all the rest.
FILES = {
    "songci": tuple(f"songci/ci.song.{start}.json" for start in range(0, 22_000, 1000)),
    "yuanqu": ("yuanqu/yuanqu.json",),
    "mengxue": tuple(
        f"mengxue/{name}.json"
        for name in (
            "baijiaxing",
            "dizigui",
            "guwenguanzhi",
            "qianjiashi",
            "qianziwen",
            "sanzijing-new",
            "sanzijing-traditional",
            "shenglvqimeng",
            "tangshisanbaishou",
            "youxueqionglin",
            "zengguangxianwen",
            "zhuzijiaxun",
        )
    ),
}


class Poem(NamedTuple):
    """One poem, aria or chapter. owner: its author, or the book it is a part of."""

    owner: str
    title: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The title and the lines, one below the other."""
        return "\n".join([self.title, *self.lines] if self.title else self.lines)


def read_poems(collection: str, raw: bytes) -> Iterator[Poem]:
    """The poems of one file, in its order; those without a line are left out.

    Raises:
        ValueError: the bytes are not such a file.
    """
    try:
        record = json.loads(raw)
        found = _book(record, record["title"], "") if collection == "mengxue" else map(_single, record)
        yield from (poem for poem in found if poem.lines)
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not the file this version was written for ({error!r})") from None


def _single(record: dict[str, Any]) -> Poem:
    """{author, paragraphs, rhythmic or title}"""
    title = record["rhythmic"] if "rhythmic" in record else record["title"]
    return Poem(record["author"].strip(), title.strip(), _lines(record["paragraphs"]))


def _book(node: Any, book: str, title: str) -> Iterator[Poem]:
    """Every list of lines below a node, under the nearest title above it; abstracts and notes are not asked for."""
    for part in node if isinstance(node, list) else [node]:
        if isinstance(part, str):
            raise TypeError(f"expected chapters, found text: {part[:20]}")
        own = part.get("chapter") or part.get("subchapter") or part.get("title") or title
        below = part["content"] if "content" in part else part["paragraphs"]
        if below and isinstance(below[0], str):
            yield Poem(book, own.strip(), _lines(below))
        else:
            yield from _book(below, book, own)


def _lines(paragraphs: list[str]) -> tuple[str, ...]:
    return tuple(line.strip() for line in paragraphs if line.strip())


def collections(poems: Iterable[Poem], min_chars: int) -> Iterator[list[Poem]]:
    """Poems of one owner in order, each group of at least `min_chars` characters where the owner has that many.

    Owners follow each other as they first appear. What is left at the end of an owner joins the group before.
    """
    owners: dict[str, list[Poem]] = {}
    for poem in poems:
        owners.setdefault(poem.owner, []).append(poem)
    for members in owners.values():
        groups: list[list[Poem]] = [[]]
        size = 0
        for poem in members:
            if size >= min_chars:
                groups.append([])
                size = 0
            groups[-1].append(poem)
            size += len(poem.text)
        if size < min_chars and len(groups) > 1:
            rest = groups.pop()
            groups[-1] += rest
        yield from groups


def poem_documents(
    collection: str, poems: Iterable[Poem], *, source: str, kind: str, min_chars: int
) -> Iterator[Document]:
    """Documents of several poems. A work is an author or a book; of the anonymous, each document is one."""
    numbers: dict[str, int] = {}
    for group in collections(poems, min_chars):
        owner = group[0].owner
        number = numbers[owner] = numbers.get(owner, -1) + 1
        work = f"{collection}/{owner}"
        yield Document(
            id=f"{work}/{number:03d}",
            source=source,
            kind=kind,
            licence=LICENCE,
            work=f"{work}/{play(group)}" if owner == ANONYMOUS else work,
            text="\n\n".join(poem.text for poem in group),
        )


def play(group: Sequence[Poem]) -> str:
    """What an anonymous document belongs to: the play of its first aria (`play・aria`), or its first title."""
    return group[0].title.partition("・")[0]
