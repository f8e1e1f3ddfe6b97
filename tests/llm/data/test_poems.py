"""Poems put together by author: nothing lost, nothing repeated, nobody on both sides of a split."""

import json

import pytest
from fake_sources import poem_files

from llm.data.poems import FILES, Poem, collections, poem_documents, read_poems


def raw(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def poems(*sizes: tuple[str, int]) -> list[Poem]:
    return [Poem(owner, "", ("字" * size,)) for owner, size in sizes]


def shape(groups: list[list[Poem]]) -> list[list[int]]:
    return [[len(poem.text) for poem in group] for group in groups]


def test_a_ci_and_an_aria_are_read() -> None:
    found = read_poems(
        "songci",
        raw(
            [{"author": "苏轼", "rhythmic": "水调歌头", "paragraphs": ["明月几时有？", " ", "把酒问青天。"]}]
        ),
    )
    assert list(found) == [Poem("苏轼", "水调歌头", ("明月几时有？", "把酒问青天。"))]
    (aria,) = read_poems(
        "yuanqu", raw([{"author": "a", "title": "b", "paragraphs": ["c"], "dynasty": "yuan"}])
    )
    assert aria.text == "b\nc"
    assert list(read_poems("yuanqu", raw([{"author": "a", "title": "b", "paragraphs": []}]))) == []


def test_a_book_is_read_to_its_depth_without_notes() -> None:
    book = poem_files()["mengxue/guwenguanzhi.json"]
    found = list(read_poems("mengxue", raw(book)))
    assert [poem.title for poem in found] == ["章0", "章1", "章2", "其一"]
    assert {poem.owner for poem in found} == {"古文"}
    assert "MUST NOT" not in "".join(poem.text for poem in found)
    flat = list(
        read_poems(
            "mengxue", raw({"title": "千字文", "paragraphs": ["天地玄黃", "宇宙洪荒"], "spells": ["x"]})
        )
    )
    assert flat == [Poem("千字文", "千字文", ("天地玄黃", "宇宙洪荒"))]


@pytest.mark.parametrize(
    "damaged",
    [b"{", b"\xff", raw({"no": 1}), raw([1]), raw([{"author": None, "title": "t", "paragraphs": []}])],
)
@pytest.mark.parametrize("collection", ["songci", "mengxue"])
def test_a_damaged_file_is_an_error(collection: str, damaged: bytes) -> None:
    with pytest.raises(ValueError, match="not the file this version was written for"):
        list(read_poems(collection, damaged))


def test_groups_end_where_they_are_long_enough() -> None:
    assert shape(list(collections(poems(*[("a", 40)] * 6), 100))) == [[40, 40, 40], [40, 40, 40]]
    assert shape(list(collections(poems(("a", 100), ("a", 300), ("a", 99), ("a", 1)), 100))) == [
        [100],
        [300],
        [99, 1],
    ]


def test_the_rest_joins_the_group_before_and_a_small_owner_stays_small() -> None:
    assert shape(list(collections(poems(*[("a", 40)] * 4), 100))) == [[40, 40, 40, 40]]
    assert shape(list(collections(poems(("a", 30)), 100))) == [[30]]


def test_owners_are_gathered_from_the_whole_file_and_never_mixed() -> None:
    mixed = poems(("a", 60), ("b", 60), ("a", 60), ("b", 30), ("c", 200), ("b", 10))
    groups = list(collections(mixed, 100))
    assert [{poem.owner for poem in group} for group in groups] == [{"a"}, {"b"}, {"c"}]
    assert sorted(poem for group in groups for poem in group) == sorted(mixed)


def test_documents_have_unique_ids_and_an_author_is_one_work() -> None:
    arias = [Poem("关汉卿", f"戏・{i}", ("字" * 60,)) for i in range(6)]
    arias += [Poem("无名氏", f"{'甲乙'[i // 3]}・{i}", ("字" * 60,)) for i in range(6)]
    documents = list(poem_documents("yuanqu", arias, source="s", kind="poetry", min_chars=150))
    assert [d.id for d in documents] == [
        "yuanqu/关汉卿/000",
        "yuanqu/关汉卿/001",
        "yuanqu/无名氏/000",
        "yuanqu/无名氏/001",
    ]
    assert [d.work for d in documents] == ["yuanqu/关汉卿"] * 2 + ["yuanqu/无名氏/甲", "yuanqu/无名氏/乙"]
    assert documents[0].text.split("\n\n")[1] == f"戏・1\n{'字' * 60}"


def test_every_file_that_is_read_is_named_once() -> None:
    files = [file for group in FILES.values() for file in group]
    assert len(files) == len(set(files)) == 35
    assert all(file.startswith(f"{collection}/") for collection, group in FILES.items() for file in group)
