import json
import os
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.params import ParamsError, from_dict
from llm.tokenizer import unigram as shared
from llm.tokenizer.algorithms import unigram, unigram_fast, unigram_teaching
from llm.tokenizer.algorithms.base import backend_of, train_tokenizer
from llm.tokenizer.base import Tokenizer
from llm.tokenizer.encoder import Encoder, LibraryEncoder
from llm.tokenizer.special import special_tokens

# The duck and two pages of Python's own manual.
CORPUS = [
    *(topics[name] for name in ("assignment", "if")),
    "Once upon a time there was a duck. There was a lake, and the duck swam there; it couldn't stop!\n\n" * 3,
    "从前有一只小鸭子。小鸭子在湖里游泳，湖水很冷，小鸭子很高兴。" * 2,
    "def swim(duck):\n    return [lake for lake in duck.lakes if lake.cold]\n" * 2,
    "🦆",
]
KINDS = (unigram, unigram_fast, unigram_teaching)


def config(**changes: object) -> unigram.Config:
    values = {
        "vocab_size": 700,
        "min_frequency": 2,
        "special_tokens": [],
        "character_coverage": 1.0,
        **changes,
    }
    return from_dict(unigram.Config, values, "tokenizer")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer(unigram.build(config()), CORPUS, tmp_path_factory.mktemp("unigram"), "corpus")


def test_learns_words_and_cuts_them_by_probability(trained: Tokenizer) -> None:
    pieces = trained.pieces()
    assert pieces[4:260] == list(shared.BYTE_PIECES)
    assert {" duck", " there", " assignment", "鸭"} <= set(pieces)
    assert [pieces[index] for index in trained.encode(" the ducks")] == [" the", " duck", "s"]


def test_bytes_only_outside_the_alphabet(trained: Tokenizer) -> None:
    ids = trained.encode("é鸭🦆")
    assert [trained.pieces()[index] for index in ids] == ["<0xC3>", "<0xA9>", "鸭", "🦆"]
    covered = train_bytes_only()
    assert covered.encode("é") == [4 + byte for byte in "é".encode()]
    assert covered.decode(covered.encode("é鸭 🦆")) == "é鸭 🦆"


def train_bytes_only() -> Tokenizer:
    """A vocabulary without room for a single piece."""
    special = special_tokens(())
    backend = backend_of(*shared.parts({}, special), special)
    return wrap(backend, special)


def wrap(backend: object, special: tuple[str, ...]) -> Tokenizer:
    meta = {
        "kind": "unigram",
        "vocab_size": backend.get_vocab_size(with_added_tokens=True),  # type: ignore[attr-defined]
        "special_tokens": {token: index for index, token in enumerate(special)},
        "chat_template": {"version": 1},
    }
    return Tokenizer(backend, meta, "")  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["<0xE4>", " <0xE4><0xE4>", "x<0x0A>y", "<|pad|>", "▁ ▁a", "\x00\x00"])
def test_what_looks_like_a_byte_or_a_mark_is_text(text: str, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(unigram.build(config()), [text * 50, *CORPUS], tmp_path, "corpus")
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert min(ids) >= 260  # its characters are pieces; neither a byte nor a special token is needed


def test_a_character_in_two_is_one_replacement_character(trained: Tokenizer) -> None:
    first, second = trained.encode("é")
    assert trained.decode([first]) == trained.decode([second]) == "\ufffd"
    assert trained.decode([first, second]) == "é"
    own = unigram.build(config()).encoder(trained)
    assert own.decode_bytes([first, second, first]) == b"\xc3\xa9\xc3"


# ---------------------------------------------------------------- encoding beside the library

LETTERS = "ab é鸭子🦆▁<0xE4>\n'1"
VOCABULARIES = st.dictionaries(
    st.one_of(
        st.text("ab é鸭🦆▁", min_size=1, max_size=5), st.sampled_from(["<", "0", "x", "1", "\n", "xE"])
    ),
    st.one_of(st.integers(-6, -1).map(float), st.floats(-20, -0.1)),
    max_size=25,
)


@settings(max_examples=300, deadline=None)
@given(
    pieces=VOCABULARIES,
    texts=st.lists(
        st.one_of(st.text(LETTERS, max_size=40), st.sampled_from(CORPUS[2:])), min_size=1, max_size=5
    ),
)
def test_any_vocabulary_encodes_as_the_library_does(pieces: dict[str, float], texts: list[str]) -> None:
    """Scores of all sorts, ties among them, characters missing, pieces whose characters are no pieces."""
    special = special_tokens(())
    tokenizer = wrap(backend_of(*shared.parts(pieces, special), special), special)
    library = LibraryEncoder(tokenizer).encode_batch(texts)
    for own in (unigram_fast.FastUnigramEncoder(tokenizer), unigram_teaching.UnigramEncoder(tokenizer)):
        assert own.encode_batch(texts) == library
    assert [tokenizer.decode(ids) for ids in library] == texts


@settings(max_examples=100, deadline=None)
@given(data=st.binary())
def test_broken_bytes_come_back(trained: Tokenizer, data: bytes) -> None:
    encoders: list[Encoder] = [module.build(config()).encoder(trained) for module in KINDS]
    ids = [own.encode_bytes(data) for own in encoders]
    assert ids[0] == ids[1] == ids[2]
    assert encoders[1].decode_bytes(ids[0]) == data


def test_a_word_without_end_is_no_trap(trained: Tokenizer) -> None:
    own = unigram_fast.FastUnigramEncoder(trained)
    ids = own.encode("a" * 100_000)
    assert own.decode_bytes(ids) == b"a" * 100_000
    assert ids == trained.encode("a" * 100_000)


# ---------------------------------------------------------------- training


def test_a_smaller_corpus_gives_a_smaller_vocabulary(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(unigram.build(config(vocab_size=4000)), CORPUS[2:], tmp_path, "corpus")
    assert 300 < tokenizer.vocab_size < 500  # pieces on no best path are dropped


@pytest.mark.parametrize("module", KINDS)
def test_params_are_heeded(module: object, tmp_path: Path) -> None:
    def pieces(**changes: object) -> set[str]:
        values = {"vocab_size": 700, "min_frequency": 2, "special_tokens": (), **changes}
        algorithm = module.build(module.Config(**values))  # type: ignore[attr-defined]
        return set(train_tokenizer(algorithm, CORPUS, tmp_path, "corpus").pieces()[260:])

    assert max(map(len, pieces(max_piece_length=3))) == 3
    assert "🦆" in pieces(character_coverage=1.0)
    assert "🦆" not in pieces(character_coverage=0.9)
    assert len(pieces(min_frequency=40)) < len(pieces()) == 440
    assert pieces(shrink=0.1) != pieces()
    assert pieces(vocab_size=260) == set()


def test_trained_with_no_look_at_the_hash_seed(tmp_path: Path) -> None:
    """The law on more text: every kind writes the same file in processes with other hash seeds."""
    code = (
        "import sys; from pathlib import Path; from llm.tokenizer.algorithms import unigram, unigram_fast;"
        "from llm.tokenizer.algorithms.base import train_tokenizer; from pydoc_data.topics import topics\n"
        "for kind in (unigram, unigram_fast):\n"
        "  c = kind.Config(vocab_size=900, min_frequency=2, special_tokens=())\n"
        "  texts = [topics[name] for name in sorted(topics)[:30]]\n"
        "  train_tokenizer(kind.build(c), texts, Path(sys.argv[1]) / kind.__name__, 'corpus')"
    )
    files = set()
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": seed}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / seed)], env=env, check=True)
        files |= {path.read_bytes() for path in (tmp_path / seed).rglob("tokenizer.json")}
    assert len(files) == 1
    assert len(json.loads(files.pop())["model"]["vocab"]) == 900


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 259}, r"vocab_size \(259\) must hold 256 bytes and the special tokens: 260"),
        ({"min_frequency": 0}, r"min_frequency \(0\) must be at least 1"),
        ({"shrink": 2.0}, r"shrink \(2.0\) must be between 0 and 1"),
        ({"special_tokens": ["the"]}, r"'the' is not of the form '<\|name\|>'"),
        ({"shrinks": 0.5}, "did you mean 'shrink'"),
    ],
)
def test_bad_configs(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        config(**changes)
