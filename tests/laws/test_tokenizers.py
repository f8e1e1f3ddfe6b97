"""Laws of the family llm.tokenizer.algorithms: every kind that learns a vocabulary obeys them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm import registry
from llm.params import from_dict
from llm.runtime import hash_files
from llm.tokenizer.algorithms.base import Size, train_tokenizer
from llm.tokenizer.base import Tokenizer, load_tokenizer
from llm.tokenizer.encoder import Encoder, LibraryEncoder
from llm.tokenizer.special import CORE

FAMILY = "llm.tokenizer.algorithms"

# The smallest sensible Config of each kind; a kind without a line here fails the first test.
COMMON = {"min_frequency": 2, "special_tokens": ["<|tool|>"]}
CASES = {
    "bpe": {"vocab_size": 400, **COMMON},
    "bpe_fast": {"vocab_size": 400, **COMMON},
    "bpe_teaching": {"vocab_size": 400, **COMMON},
    "unigram": {"vocab_size": 400, **COMMON},
    "unigram_fast": {"vocab_size": 400, **COMMON},
    "unigram_teaching": {"vocab_size": 400, **COMMON},
    "wordpiece": {"vocab_size": 650, **COMMON},
    "wordpiece_fast": {"vocab_size": 650, **COMMON},
    "wordpiece_teaching": {"vocab_size": 650, **COMMON},
}

CORPUS = [
    "Once upon a time there was a little duck. The little duck swam on the lake, and the lake was cold.",
    "A: Do you have any pets?\nB: Yes, I've got 2 cats and a dog; they're 13 years old!\n",
    "从前有一只小鸭子。小鸭子在湖里游泳，湖水很冷。",
    "🙂🙂 héllo wörld 👩‍👩‍👧 \t tabs  and   spaces\r\n",
]
MARKUP = "".join(CORE) + "<|tool|>"


# Text of every sort, also half characters and characters of no meaning; not those newer than the library's tables.
KNOWN = st.characters(exclude_categories=("Cs", "Cn"))
TEXTS = st.one_of(
    st.text(KNOWN),
    st.text("ab é鸭小🦆👩\u200d1_-#'sltm. \t\r\n\u3000\u00a0‿▁<0xE4>"),
    st.lists(st.sampled_from([*CORPUS, *MARKUP.split("|"), MARKUP, " ", "def f(x):\n    return x**2\n"])).map(
        "".join
    ),
    st.binary().map(lambda data: data.decode("utf-8", errors="replace")),
)


def train(kind: str, folder: Path, texts: list[str] | None = None) -> Tokenizer:
    config = from_dict(registry.module(FAMILY, kind).Config, CASES[kind], kind)
    return train_tokenizer(registry.build(config), texts or CORPUS, folder, "corpus")


@pytest.fixture(scope="module", params=registry.kinds(FAMILY))
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    return train(request.param, folder), folder


def test_every_kind_has_a_case() -> None:
    assert sorted(CASES) == registry.kinds(FAMILY)


def test_config_asks_for_a_size_and_special_tokens() -> None:
    for kind in registry.kinds(FAMILY):
        assert issubclass(registry.module(FAMILY, kind).Config, Size)
        config = from_dict(registry.module(FAMILY, kind).Config, CASES[kind], kind)
        algorithm = registry.build(config)
        assert algorithm.kind == kind
        assert algorithm.special_tokens == (*CORE, "<|tool|>")


@pytest.fixture(scope="module")
def encoders(trained: tuple[Tokenizer, Path]) -> tuple[Encoder, Encoder]:
    """The kind's own encoder and the library's."""
    tokenizer, _ = trained
    config = from_dict(registry.module(FAMILY, tokenizer.kind).Config, CASES[tokenizer.kind], tokenizer.kind)
    return registry.build(config).encoder(tokenizer), LibraryEncoder(tokenizer)


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(st.text(), TEXTS))
def test_decode_inverts_encode(trained: tuple[Tokenizer, Path], text: str) -> None:
    tokenizer, _ = trained
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(st.text(), TEXTS), cut=st.integers(0, 60))
def test_a_character_cut_in_half_costs_no_other(trained: tuple[Tokenizer, Path], text: str, cut: int) -> None:
    tokenizer, _ = trained
    shown = tokenizer.decode(tokenizer.encode(text)[:cut])
    whole = shown.removesuffix("\ufffd") if not text.startswith(shown) else shown
    assert text.startswith(whole)
    kept = b"".join([tokenizer.piece_bytes[index] for index in tokenizer.encode(text)[:cut]])
    assert len(kept) - len(whole.encode()) < 4  # at most the first three bytes of one character


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_own_code_encodes_as_the_library(encoders: tuple[Encoder, Encoder], text: str) -> None:
    own, library = encoders
    ids = library.encode(text)
    assert own.encode(text) == ids
    assert own.decode_bytes(ids) == text.encode()


@settings(max_examples=200, deadline=None)
@given(
    data=st.one_of(
        st.binary(),
        st.lists(
            st.sampled_from(
                [*(text.encode() for text in CORPUS), b"\xe5\xb0", b"\xff", b" ", b"a", b"\xed\xa0\x80"]
            )
        ).map(b"".join),
    )
)
def test_any_bytes_come_back(encoders: tuple[Encoder, Encoder], data: bytes) -> None:
    own, library = encoders
    ids = own.encode_bytes(data)
    assert own.decode_bytes(ids) == data
    assert library.encode_bytes(data) == ids


def test_every_byte_has_its_own_id(encoders: tuple[Encoder, Encoder]) -> None:
    for encoder in encoders:
        assert [encoder.tokenizer.piece_bytes[index] for index in encoder.byte_ids] == [
            bytes([b]) for b in range(256)
        ]
        assert encoder.encode_bytes(b"\xff\xfe") == [encoder.byte_ids[0xFF], encoder.byte_ids[0xFE]]


@pytest.mark.parametrize("length", [99, 100, 101, 5000])
def test_long_words_are_no_exception(encoders: tuple[Encoder, Encoder], length: int) -> None:
    own, library = encoders
    for text in ("a" * length, "duck" * (length // 4) + "x", "湖" * length, "." * length, " " * length):
        ids = library.encode(text)
        assert own.encode(text) == ids
        assert own.decode_bytes(ids) == text.encode()
        assert library.tokenizer.decode(ids) == text


def test_no_unicode_is_named(encoders: tuple[Encoder, Encoder]) -> None:
    for encoder in encoders:
        with pytest.raises(ValueError, match="text 1 has half a surrogate pair at character 2"):
            encoder.encode_batch(["fine", "ab\ud83d"])
        with pytest.raises(ValueError, match="text 0 is a NoneType"):
            encoder.encode_batch([None])  # type: ignore[list-item]


def test_own_batch_equals_one_by_one(encoders: tuple[Encoder, Encoder]) -> None:
    own, _ = encoders
    texts = ["", *CORPUS, "duck", ""]
    assert own.encode_batch(texts) == [own.encode(text) for text in texts]
    assert own.encode_batch([]) == []


def test_ids_do_not_depend_on_the_cache(
    encoders: tuple[Encoder, Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, library = encoders
    monkeypatch.setattr("llm.tokenizer.encoder._CACHE_WORDS", 0)
    for _ in range(2):
        ids = own.encode_batch(CORPUS)
        ids[0].append(0)  # what a caller does to its ids is no concern of the cache
        assert own.encode_batch(CORPUS) == library.encode_batch(CORPUS)


@pytest.mark.parametrize("family", ["bpe", "unigram", "wordpiece"])
def test_three_ways_of_learning_end_in_the_same_file(family: str, tmp_path: Path) -> None:
    files = []
    for kind in (family, f"{family}_fast", f"{family}_teaching"):
        train(kind, tmp_path / kind)
        files.append((tmp_path / kind / "tokenizer.json").read_bytes())
    assert files[0] == files[1] == files[2]


def test_modules_that_some_kinds_share_are_deps_whatever_is_chosen() -> None:
    """dvc.yaml can name the chosen kind only; base.py imports what the others need, so that edits are noticed."""
    spec = importlib.util.spec_from_file_location(
        "closure", Path(__file__).parents[1] / "pipeline" / "closure.py"
    )
    assert spec is not None
    assert spec.loader is not None
    closure = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(closure)
    for kind in registry.kinds(FAMILY):
        name = f"{FAMILY}.{kind}"
        assert closure.closure(name) - {name} <= closure.closure("stages.encode") & closure.closure(
            "stages.tokenizer"
        )


@settings(max_examples=100, deadline=None)
@given(text=st.lists(st.sampled_from([*CORE, "<|", "|>", "<|tool|>", "im_end", " ", "x"])).map("".join))
def test_text_never_becomes_a_special_token(trained: tuple[Tokenizer, Path], text: str) -> None:
    tokenizer, _ = trained
    assert not set(tokenizer.encode(text)) & set(tokenizer.special_ids.values())
    assert tokenizer.decode(tokenizer.encode(text), skip_special=True) == text


def test_markup_learned_from_text_stays_text(tmp_path: Path) -> None:
    for kind in registry.kinds(FAMILY):
        tokenizer = train(kind, tmp_path / kind, [f"{MARKUP} a duck" * 50])
        assert not set(tokenizer.encode(MARKUP)) & set(tokenizer.special_ids.values())


def test_special_tokens_come_first_and_decode_to_themselves(trained: tuple[Tokenizer, Path]) -> None:
    tokenizer, _ = trained
    assert tokenizer.special_ids == {token: index for index, token in enumerate((*CORE, "<|tool|>"))}
    named = [tokenizer.eot_id, tokenizer.pad_id, tokenizer.im_start_id, tokenizer.im_end_id]
    assert named == [0, 1, 2, 3]
    assert tokenizer.decode([0, 1, 2, 3, 4]) == MARKUP
    assert tokenizer.decode([0, *tokenizer.encode("a duck"), 3], skip_special=True) == "a duck"


def test_batch_equals_one_by_one_in_order(trained: tuple[Tokenizer, Path]) -> None:
    tokenizer, _ = trained
    texts = ["", *CORPUS, "duck", ""]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch([]) == []


def test_ids_are_inside_the_vocabulary(trained: tuple[Tokenizer, Path]) -> None:
    tokenizer, _ = trained
    ids = [index for text in CORPUS for index in tokenizer.encode(text)]
    assert 0 <= min(ids) <= max(ids) < tokenizer.vocab_size == len(tokenizer.pieces())
    assert tokenizer.vocab_size <= CASES[tokenizer.kind]["vocab_size"]
    assert len(ids) < sum(len(text.encode()) for text in CORPUS)  # something was learned


def test_loading_gives_the_same_tokenizer(trained: tuple[Tokenizer, Path]) -> None:
    tokenizer, folder = trained
    again = load_tokenizer(folder)
    assert again.encode_batch(CORPUS) == tokenizer.encode_batch(CORPUS)
    assert again.hash == tokenizer.hash == hash_files(folder)
    assert (again.kind, again.vocab_size) == (tokenizer.kind, tokenizer.vocab_size)


def test_equal_corpora_give_equal_bytes_in_every_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_tokenizers as laws\n"
        "for kind in laws.CASES: print(kind, laws.train(kind, Path(sys.argv[2]) / kind).hash)"
    )
    outputs = []
    for seed, threads in (("1", "1"), ("2", "2")):
        env = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "RAYON_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "true",
        }
        command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / seed)]
        outputs.append(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)
    assert outputs[0] == outputs[1]
    assert len(outputs[0].splitlines()) == len(CASES)


def test_an_empty_corpus_is_an_error(tmp_path: Path) -> None:
    for kind in registry.kinds(FAMILY):
        config = from_dict(registry.module(FAMILY, kind).Config, CASES[kind], kind)
        for texts in ([], ["", ""]):
            with pytest.raises(ValueError, match="corpus: empty corpus"):
                train_tokenizer(registry.build(config), texts, tmp_path / kind, "corpus")
            assert not (tmp_path / kind).exists()
