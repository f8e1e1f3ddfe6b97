import json
import random
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from llm.tokenizer.algorithms import bpe
from llm.tokenizer.algorithms import bpe_teaching as teaching
from llm.tokenizer.algorithms.base import train_tokenizer
from llm.tokenizer.base import Tokenizer
from llm.tokenizer.special import special_tokens

CORPUS = [
    "Once upon a time there was a duck. There was a lake, and the duck swam there; it couldn't stop!\n\n" * 3,
    "从前有一只小鸭子。小鸭子在湖里游泳，湖水很冷，小鸭子很高兴。" * 2,
    "🙂🙂 🦆🦆🦆 héllo 👩‍👩‍👧 👩‍👩‍👧 aaaa aaa aaaaaa\t\t  x  = 12345;  y=123 \r\n",
]


def both(
    folder: Path, texts: list[str], vocab_size: int, min_frequency: int
) -> tuple[Tokenizer, teaching.Vocabulary]:
    config = bpe.Config(vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=())
    backend = train_tokenizer(bpe.build(config), texts, folder, "corpus")
    own = teaching.train(
        texts, vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=special_tokens(())
    )
    return backend, own


def merges_of(folder: Path) -> list[tuple[str, ...]]:
    return [tuple(pair) for pair in json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, teaching.Vocabulary, Path]:
    folder = tmp_path_factory.mktemp("bpe")
    return *both(folder, CORPUS, 420, 2), folder


def test_merges_and_ids_equal_the_backend(trained: tuple[Tokenizer, teaching.Vocabulary, Path]) -> None:
    backend, own, folder = trained
    assert [(own.tokens[left], own.tokens[right]) for left, right in own.merges] == merges_of(folder)
    assert own.tokens == backend.pieces()
    assert len(own.merges) > 100


@settings(max_examples=300, deadline=None)
@given(
    text=st.one_of(
        st.text(st.characters(exclude_categories=("Cs", "Cn"))),
        st.lists(st.sampled_from([*CORPUS, "鸭", "小鸭", " ", "aa", "🦆"])).map("".join),
    )
)
def test_encodings_equal_the_backend(trained: tuple[Tokenizer, teaching.Vocabulary, Path], text: str) -> None:
    backend, own, _ = trained
    ids = teaching.encode(text, own)
    assert ids == backend.encode(text)
    assert teaching.decode(ids, own) == text


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text("abc '1\n"), min_size=1).filter(any),
    size=st.integers(260, 330),
    least=st.integers(1, 3),
)
def test_ties_and_ends_equal_the_backend(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], size: int, least: int
) -> None:
    folder = tmp_path_factory.mktemp("ties")
    backend, own = both(folder, texts, size, least)
    assert [(own.tokens[left], own.tokens[right]) for left, right in own.merges] == merges_of(folder)
    assert own.tokens == backend.pieces()


def test_merge_is_left_to_right() -> None:
    assert teaching.merge([7, 7, 7, 5], (7, 7), 9) == [9, 7, 5]


def test_the_merge_learned_first_is_applied_first() -> None:
    # "abc" with merges b+c, then a+b: a pair on the left that was learned later must wait.
    tokens = ["a", "b", "c", "bc", "ab"]
    vocabulary = teaching.Vocabulary(tokens, {(1, 2): 3, (0, 1): 4})
    assert teaching.encode_word("abc", vocabulary) == [0, 3]


def test_damaged_bytes_become_the_replacement_character() -> None:
    vocabulary = teaching.train(["x"], vocab_size=256, min_frequency=1, special_tokens=())
    ids = teaching.encode("鸭", vocabulary)
    assert teaching.decode(ids[:2], vocabulary) == "\ufffd"


def test_a_string_that_is_already_a_token_keeps_its_id() -> None:
    # Only a name that text can spell gets there (llm/tokenizer/special.py refuses such names): " the" is a new token,
    # "the" at the start of a text is the token that was there before.
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=260, special_tokens=["the"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["the the the"], trainer)
    own = teaching.train(["the the the"], vocab_size=260, min_frequency=1, special_tokens=["the"])
    assert own.ids == backend.get_vocab()
    assert 0 in own.merges.values()
    assert len(own.tokens) == len(set(own.tokens))


def test_dropout_forgets_merges(trained: tuple[Tokenizer, teaching.Vocabulary, Path]) -> None:
    _, own, _ = trained
    rng = random.Random(1)
    word = "Ġduck"
    whole = teaching.encode_word(word, own)
    bytes_only = [own.ids[character] for character in word]
    assert teaching.encode_word_with_dropout(word, own, 0.0, rng) == whole != bytes_only
    assert teaching.encode_word_with_dropout(word, own, 1.0, rng) == bytes_only
    seen = {tuple(teaching.encode_word_with_dropout(word, own, 0.5, rng)) for _ in range(200)}
    assert len(seen) > 4
    assert all(teaching.decode(ids, own) == " duck" for ids in seen)


def test_dropout_keeps_a_merge_as_often_as_asked() -> None:
    vocabulary = teaching.Vocabulary(["a", "b", "ab"], {(0, 1): 2})
    rng = random.Random(2)
    kept = sum(teaching.encode_word_with_dropout("ab", vocabulary, 0.1, rng) == [2] for _ in range(4000))
    assert abs(kept / 4000 - 0.9) < 0.015  # three standard deviations
