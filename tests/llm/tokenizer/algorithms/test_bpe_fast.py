import json
import random
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.tokenizer.algorithms import bpe, bpe_fast, bpe_teaching
from llm.tokenizer.algorithms.base import train_tokenizer
from llm.tokenizer.byte_level import WORD, spell
from llm.tokenizer.encoder import Encoder

CORPUS = [
    "Once upon a time there was a duck. There was a lake, and the duck swam there; it couldn't stop!\n\n" * 3,
    "从前有一只小鸭子。小鸭子在湖里游泳，湖水很冷，小鸭子很高兴。" * 2,
    "🙂🙂 🦆🦆🦆 héllo 👩‍👩‍👧 👩‍👩‍👧 aaaa aaa aaaaaa\t\t  x  = 12345;  y=123 \r\n",
    "def swim(duck):\n    return [lake for lake in duck.lakes if lake.cold]\n" * 2,
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    algorithm = bpe_fast.build(bpe_fast.Config(vocab_size=420, min_frequency=2, special_tokens=()))
    return algorithm.encoder(train_tokenizer(algorithm, CORPUS, tmp_path_factory.mktemp("fast"), "corpus"))


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(st.text("abc '1\n鸭"), min_size=1).filter(any),
    size=st.integers(260, 330),
    least=st.integers(1, 3),
)
def test_merges_equal_the_library_in_a_corpus_of_ties(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], size: int, least: int
) -> None:
    files = []
    for module in (bpe, bpe_fast):
        config = module.Config(vocab_size=size, min_frequency=least, special_tokens=())
        folder = tmp_path_factory.mktemp("ties")
        train_tokenizer(module.build(config), texts, folder, "corpus")
        files.append((folder / "tokenizer.json").read_bytes())
    assert files[0] == files[1]


def test_real_text(repo_text: list[str], tmp_path: Path) -> None:
    """Merges, vocabulary and ids on the pages of this project's own documentation, English and Chinese."""
    files, ids = [], []
    for module in (bpe, bpe_fast):
        algorithm = module.build(module.Config(vocab_size=1500, min_frequency=2, special_tokens=()))
        tokenizer = train_tokenizer(algorithm, repo_text, tmp_path / module.__name__, "corpus")
        files.append((tmp_path / module.__name__ / "tokenizer.json").read_bytes())
        ids.append(algorithm.encoder(tokenizer).encode_batch([*repo_text, *CORPUS]))
    assert len(json.loads(files[0])["model"]["merges"]) == 1500 - 260
    assert files[0] == files[1]
    assert ids[0] == ids[1]


@pytest.fixture(scope="module")
def repo_text() -> list[str]:
    root = Path(__file__).resolve().parents[4]
    pages = [root / "README.zh.md", *sorted((root / "docs").rglob("*.md"))[:30]]
    return [page.read_text(encoding="utf-8") for page in pages]


@settings(max_examples=200, deadline=None)
@given(
    text=st.one_of(
        st.text(st.characters(exclude_categories=("Cs", "Cn"))),
        st.lists(st.sampled_from([*CORPUS, "鸭", "小鸭", " ", "aa", "🦆"])).map("".join),
    )
)
def test_ids_equal_tiktoken_from_the_same_ranks(encoder: Encoder, text: str) -> None:
    assert encoder.encode(text) == [index + 4 for index in oracle(encoder).encode_ordinary(text)]


@settings(max_examples=100, deadline=None)
@given(data=st.binary())
def test_broken_bytes_one_by_one_as_tiktoken_would(encoder: Encoder, data: bytes) -> None:
    ids = encoder.encode_bytes(data)
    assert oracle(encoder).decode_bytes([index - 4 for index in ids]) == data


def oracle(encoder: Encoder) -> tiktoken.Encoding:
    """tiktoken numbers tokens by rank: the 256 bytes, then the merges; ours are the same after 4 special ids."""
    ranks = {piece: index for index, piece in enumerate(encoder.tokenizer.piece_bytes[4:])}
    assert len(ranks) == len(encoder.tokenizer.piece_bytes) - 4
    return tiktoken.Encoding(name="own", pat_str=WORD.pattern, mergeable_ranks=ranks, special_tokens={})


@settings(max_examples=200, deadline=None)
@given(word=st.text("abd鸭", min_size=1, max_size=200))
def test_the_heap_merges_in_the_order_of_learning(encoder: Encoder, word: str) -> None:
    """Against the plain form, which looks at all pairs again after every merge."""
    plain = bpe_teaching.TeachingEncoder(encoder.tokenizer).vocabulary
    own = encoder.encode_word(word)  # type: ignore[attr-defined]
    assert own == bpe_teaching.encode_word(spell(word), plain)


def test_a_word_without_end_is_no_trap(encoder: Encoder) -> None:
    word = "".join(random.Random(0).choices("duckswimatlake", k=100_000))
    ids = encoder.encode(word)
    assert encoder.decode_bytes(ids) == word.encode()
    assert len(ids) < 100_000
