import io
import json
import math
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
import sentencepiece
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from llm.tokenizer import unigram_training as fast
from llm.tokenizer.algorithms import unigram_teaching as teaching
from llm.tokenizer.byte_level import WORD, count_words
from llm.tokenizer.lattice import Pieces, forward, lattice, viterbi
from llm.tokenizer.unigram import Learning

Counts = dict[str, int]
SIZE = 800


def learn_slowly(counts: Counts, size: int, min_frequency: int, learning: Learning) -> Pieces:
    config = teaching.Config(
        vocab_size=size + 260,
        min_frequency=min_frequency,
        special_tokens=(),
        shrink=learning.shrink,
        max_piece_length=learning.max_piece_length,
    )
    return teaching.build(config).learn(counts, size)


@pytest.fixture(scope="module")
def words() -> Counts:
    """English with some code: Python's own reference manual, which every Python has; no line ends."""
    counts = count_words(topics[name] for name in sorted(topics)[:40])
    return {w: n for w, n in counts.items() if w.isascii() and not any(c in w for c in "\t\n\r")}


# ---------------------------------------------------------------- fast = teaching


@settings(max_examples=150, deadline=None)
@given(
    counts=st.dictionaries(
        st.text("abc 鸭", min_size=1, max_size=9), st.integers(1, 5), min_size=1, max_size=30
    ),
    size=st.integers(5, 40),
    least=st.integers(1, 3),
    learning=st.builds(
        Learning, shrink=st.sampled_from([0.3, 0.75, 0.95]), max_piece_length=st.sampled_from([1, 2, 4, 16])
    ),
)
def test_fast_equals_teaching_in_a_corpus_of_ties(
    counts: Counts, size: int, least: int, learning: Learning
) -> None:
    assert list(fast.learn(counts, size, least, learning).items()) == list(
        learn_slowly(counts, size, least, learning).items()
    )


def test_fast_equals_teaching_on_text(words: Counts) -> None:
    some = dict(list(words.items())[:1500])
    own, plain = fast.learn(some, 400, 2, Learning()), learn_slowly(some, 400, 2, Learning())
    assert list(own) == list(plain)
    assert max(abs(own[piece] - plain[piece]) for piece in own) <= 1e-6
    assert len(own) == 400


def test_more_seeds_than_allowed(words: Counts, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (fast, teaching):
        monkeypatch.setattr(module, "N_SEEDS", 200)
    some = dict(list(words.items())[:200])
    own = fast.learn(some, 100, 2, Learning())
    assert own == learn_slowly(some, 100, 2, Learning())
    assert set("".join(some)) <= set(own)


def test_nothing_to_learn_from() -> None:
    assert fast.learn({}, 10, 2, Learning()) == {} == learn_slowly({}, 10, 2, Learning())


# ---------------------------------------------------------------- the steps


def test_digamma() -> None:
    x = np.concatenate([np.linspace(0.5, 20, 200), np.logspace(1.5, 8, 50)])
    oracle = torch.digamma(torch.tensor(x)).numpy()
    np.testing.assert_allclose(fast.digamma(x), oracle, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose([teaching.digamma(value) for value in x], oracle, rtol=1e-13, atol=1e-13)


def test_seeds_by_hand() -> None:
    # " because" stands in one distinct word: it is a seed because that word is frequent. " becaus" always goes on
    # with an e and is none; "be" is, it also stands in " be". "ecause" covers 6 characters 3 times.
    seeds = teaching.seeds({" because": 3, " be": 2, "x": 1}, 2, 16)
    covered = {
        **{" ": 5, "b": 5, "e": 8, "c": 3, "a": 3, "u": 3, "s": 3, "x": 1},
        **{" be": 15, "be": 10, "cause": 15, "ause": 12, "use": 9, "se": 6},
        **{"ecause": 18, "because": 21, " because": 24},
    }
    total = sum(covered.values())
    assert seeds == {s: teaching.rounded(math.log(n / total)) for s, n in covered.items()} | seeds
    assert {s: pytest.approx(math.log(n / total), abs=1e-9) for s, n in covered.items()} == seeds


def test_em_climbs(words: Counts) -> None:
    """Without the sparse prior each EM step makes the corpus more probable; that is what EM promises."""
    some = dict(list(words.items())[:300])
    pieces = teaching.seeds(some, 2, 16)
    likelihoods = []
    for _ in range(4):
        likelihoods.append(quality(pieces, some)[0])
        counts = teaching.expected_counts(some, pieces, 16)
        total = sum(counts.values())
        pieces = {piece: math.log(count / total) for piece, count in counts.items() if count > 0}
    assert likelihoods == sorted(likelihoods)
    assert likelihoods[-1] > likelihoods[0] + 0.01


def test_maximise_drops_rare_pieces_but_no_character() -> None:
    pieces = teaching.maximise({"a": 4.0, "b": 0.1, "ab": 0.49, "aba": 0.5})
    total = torch.digamma(torch.tensor(4.0 + 0.5 + 0.5, dtype=torch.float64))
    by_hand = {"a": 4.0, "b": 0.5, "aba": 0.5}
    assert list(pieces) == list(by_hand)
    for piece, count in by_hand.items():
        oracle = torch.digamma(torch.tensor(count, dtype=torch.float64)) - total
        assert pieces[piece] == pytest.approx(float(oracle), abs=1e-9)


def test_pruning_takes_what_costs_least() -> None:
    """The loss (4) against its definition: Viterbi counts before and after, piece by piece."""
    counts = {"abab": 5, "abc": 7, "cab": 3, "bcbc": 2}
    pieces = {"a": -2.0, "b": -2.0, "c": -2.5, "ab": -2.25, "bc": -3.0, "abc": -4.0, "cab": -4.5, "cb": -9.0}
    used = Counter()
    for word, count in counts.items():
        used.update({piece: 0 for piece in pieces})
        for piece in viterbi(word, pieces, 4):
            used[piece] += count
    losses = {}
    for piece in [p for p in pieces if len(p) > 1 and used[p]]:
        instead = viterbi(piece, {p: s for p, s in pieces.items() if p != piece}, 4)
        after = used + Counter({p: n * used[piece] for p, n in Counter(instead).items()})
        del after[piece]
        # Each occurrence had the probability used / S; now it has the product of those of its replacement.
        before = math.log(used[piece] / used.total())
        now = sum(math.log((used[p] + used[piece]) / after.total()) for p in instead)
        losses[piece] = used[piece] * (before - now)
    assert used["cb"] == 0
    assert "cb" not in losses
    for n_kept in range(3, 3 + len(losses) + 1):
        kept = set("abc") | set(sorted(losses, key=lambda piece: -losses[piece])[: n_kept - 3])
        assert set(teaching.prune(counts, pieces, n_kept, 4)) == kept


# ---------------------------------------------------------------- beside other trainers


def quality(pieces: Pieces, counts: Counts) -> tuple[float, float]:
    """Log-likelihood and Viterbi tokens, both per word of the corpus."""
    longest, n_words = max(map(len, pieces)), sum(counts.values())
    likelihood = sum(n * forward(w, lattice(w, pieces, longest))[-1] for w, n in counts.items())
    return likelihood / n_words, sum(
        n * len(viterbi(w, pieces, longest)) for w, n in counts.items()
    ) / n_words


@pytest.fixture(scope="module")
def others(words: Counts, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, float]]:
    return {
        "tokenizers": quality(by_tokenizers(words), words),
        "sentencepiece": quality(by_sentencepiece(words, tmp_path_factory.mktemp("sp")), words),
    }


def by_tokenizers(counts: Counts) -> Pieces:
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(WORD.pattern), behavior="isolated")
    trainer = trainers.UnigramTrainer(vocab_size=SIZE, show_progress=False)
    backend.train_from_iterator((word for word, count in counts.items() for _ in range(count)), trainer)
    return dict(json.loads(backend.to_str())["model"]["vocab"])


def by_sentencepiece(counts: Counts, folder: Path) -> Pieces:
    (folder / "words.tsv").write_text("".join(f"{word}\t{count}\n" for word, count in counts.items()))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "words.tsv"),
        input_format="tsv",
        model_writer=model,
        model_type="unigram",
        vocab_size=SIZE + 3,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    n_special = 3  # <unk>, <s>, </s>
    return {
        trained.id_to_piece(index).replace("▁", " "): trained.get_score(index)
        for index in range(n_special, trained.get_piece_size())
    }


@pytest.mark.parametrize("name", ["tokenizers", "sentencepiece"])
def test_seeds_counted_as_others_do_give_what_others_get(
    words: Counts, others: dict[str, tuple[float, float]], name: str
) -> None:
    own = quality(fast.learn(words, SIZE, 2, Learning(), dict.fromkeys(words, 1)), words)
    assert own[0] >= 1.02 * others[name][0]  # log-likelihoods are negative
    assert own[1] <= 1.03 * others[name][1]


@pytest.mark.parametrize("name", ["tokenizers", "sentencepiece"])
def test_seeds_counted_by_frequency_give_more(
    words: Counts, others: dict[str, tuple[float, float]], name: str
) -> None:
    own = quality(fast.learn(words, SIZE, 2, Learning()), words)
    assert own[0] > 0.98 * others[name][0]
    assert own[1] < 0.98 * others[name][1]
