"""Laws of the family llm.tokenizer.algorithms: every kind that learns a vocabulary obeys them."""

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
from llm.tokenizer.algorithms.base import train_tokenizer
from llm.tokenizer.base import Tokenizer, load_tokenizer
from llm.tokenizer.special import CORE

FAMILY = "llm.tokenizer.algorithms"

# The smallest sensible Config of each kind; a kind without a line here fails the first test.
CASES = {"bpe": {"vocab_size": 400, "min_frequency": 2, "special_tokens": ["<|tool|>"]}}

CORPUS = [
    "Once upon a time there was a little duck. The little duck swam on the lake, and the lake was cold.",
    "A: Do you have any pets?\nB: Yes, I've got 2 cats and a dog; they're 13 years old!\n",
    "从前有一只小鸭子。小鸭子在湖里游泳，湖水很冷。",
    "🙂🙂 héllo wörld 👩‍👩‍👧 \t tabs  and   spaces\r\n",
]
MARKUP = "".join(CORE) + "<|tool|>"


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
        fields = registry.module(FAMILY, kind).Config.__dataclass_fields__
        assert {"vocab_size", "special_tokens"} <= set(fields)
        config = from_dict(registry.module(FAMILY, kind).Config, CASES[kind], kind)
        algorithm = registry.build(config)
        assert algorithm.kind == kind
        assert algorithm.special_tokens == (*CORE, "<|tool|>")


@settings(max_examples=300, deadline=None)
@given(
    text=st.one_of(
        st.text(), st.lists(st.sampled_from([*CORPUS, *MARKUP.split("|"), MARKUP, " "])).map("".join)
    )
)
def test_decode_inverts_encode(trained: tuple[Tokenizer, Path], text: str) -> None:
    tokenizer, _ = trained
    assert tokenizer.decode(tokenizer.encode(text)) == text


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
    assert tokenizer.vocab_size <= 400
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
