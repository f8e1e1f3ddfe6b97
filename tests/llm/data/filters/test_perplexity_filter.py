"""The perplexity filter: order of surprise, folds, bands, limits by kind, samples."""

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from string import ascii_lowercase

import numpy as np
import pytest

from llm.data.document import Document
from llm.data.filters.perplexity import Config, Limits, Perplexity, _place, band_of, build
from llm.data.word_model import Vocabulary, fit_words, tokens

CORPUS = Path(__file__).parents[3] / "fixtures" / "corpus" / "corpus.jsonl"
SUBJECTS = ("the cat", "the old hen", "a small fox", "the miller", "her sister")
VERBS = ("ran to", "looked at", "sat in", "thought of", "came from")
PLACES = ("the wood", "the house", "the lake", "the garden", "the mill")


def sentence(draw: random.Random) -> str:
    return f"{draw.choice(SUBJECTS)} {draw.choice(VERBS)} {draw.choice(PLACES)} ."


def document(number: int, text: str, kind: str = "tales") -> Document:
    return Document(id=f"d{number}", source="t", kind=kind, licence="CC0", work=f"w{number}", text=text)


def corpus(n: int = 120, kind: str = "tales") -> list[Document]:
    draw = random.Random(3)
    return [document(i, "\n".join(sentence(draw) for _ in range(12)), kind) for i in range(n)]


def fitted(documents: list[Document], **fields) -> Perplexity:
    filter_ = build(Config(**{"min_ngram_count": 1, "min_docs": 20} | fields))
    filter_.fit(documents)
    return filter_


def test_text_then_shuffled_words_then_random_letters() -> None:
    filter_ = fitted(corpus())
    draw = random.Random(5)
    real = "\n".join(sentence(draw) for _ in range(20))
    words = real.split()
    shuffled = " ".join(draw.sample(words, len(words)))
    letters = " ".join("".join(draw.choices("abcdefghijklmnop", k=5)) for _ in range(80))
    scores = [filter_.models[0].perplexity(tokens(text))[0] for text in (real, shuffled, letters)]
    assert scores[0] * 3 < scores[1]
    assert scores[1] * 3 < scores[2]


def test_real_text_is_told_from_shuffled_and_from_corrupted_text() -> None:
    """Each document against its own copy; on the whole corpus, documents against the copies of others, see docs."""
    records = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]
    texts = [r.get("text") or "\n".join(m["content"] for m in r["messages"]) for r in records]
    documents = [document(i, text) for i, text in enumerate(texts)]
    filter_ = fitted(documents, order=3)
    draw = random.Random(4)

    def shuffled(text: str) -> str:
        words = text.split(" ")
        return " ".join(draw.sample(words, len(words)))

    def corrupted(text: str) -> str:  # every tenth letter another one
        return "".join(
            draw.choice(ascii_lowercase) if c.isalpha() and draw.random() < 0.1 else c for c in text
        )

    def letters(text: str) -> str:
        return "".join(draw.choice(ascii_lowercase) if c.isalpha() else c for c in text)

    def scores(change: Callable[[str], str]) -> list[float]:
        models = [filter_.models[_place(one.id, 2)[1]] for one in documents]
        return [m.perplexity(tokens(change(one.text)))[0] for m, one in zip(models, documents, strict=True)]

    real, worse, worst = scores(str), [scores(shuffled), scores(corrupted)], scores(letters)
    for changed in worse:
        assert np.mean(np.array(real) < np.array(changed)) > 0.95
        assert np.median(real) < np.median(changed) < np.median(worst)


def test_an_unknown_word_costs_its_spelling() -> None:
    names = list("\nab")
    ids = np.array([0, 1, 2, 1, 1, 0, 1, 2, 0, 1, 1, 0])
    rare = [*names, "abc", "abd"]
    model = fit_words(rare, np.array([*ids, 3, 0, 4, 0]), order=2, discount=0.75, min_ngram_count=1)
    assert set(model.word_ids) == {"a", "b"}
    likely, odd, foreign = model.spelling(["abc", "dcb", "zzz"])
    assert likely > odd > foreign
    # what the perplexity of a line with an unknown word adds up to, by hand
    ppl, n = model.perplexity(["a", "abc"])
    with_unk = model.words.logp(np.array([0, model.word_ids["a"], 1, 0]), np.array([-1, 0 + 1, 2, 3]))
    assert n == 2
    assert ppl == pytest.approx(np.exp(-(with_unk.sum() + likely) / 3), rel=1e-5)


def test_texts_that_are_alike_but_for_spelling_score_alike() -> None:
    filter_ = fitted(corpus())
    plain = filter_.models[0].perplexity(tokens("the cat sat in the garden . 1999"))
    assert filter_.models[0].perplexity(tokens("The CÄT sat in\u00a0the gardén . 2024")) == plain


def test_a_document_is_judged_by_the_model_that_has_not_seen_it() -> None:
    odd = document(500, "zebras quibble about xylophones\n" * 15)
    with_it = fitted([*corpus(), odd])
    _, fold = _place(odd.id, 2)
    own, other = (with_it.models[f].perplexity(tokens(odd.text))[0] for f in (1 - fold, fold))
    assert with_it.judge(odd).score == other
    assert own < other / 5  # the other fold's model was fitted on it


def test_limits_are_quantiles_of_the_scores() -> None:
    documents = corpus()
    filter_ = fitted(documents, predictable_frac=0.1, keep_bands=("head", "middle", "tail"))
    verdicts = [filter_.judge(one) for one in documents]
    dropped = [v for v in verdicts if not v.keep]
    assert {v.reason for v in dropped} == {"too_predictable"}
    assert len(dropped) == 12
    bands = [next(iter(v.edits)) for v in verdicts if v.keep]
    assert [bands.count(b) for b in ("head", "middle", "tail")] == [24, 36, 48]


def test_bands_not_kept_are_dropped_with_their_name() -> None:
    documents = corpus()
    filter_ = fitted(documents, predictable_frac=0.0, keep_bands=("head",))
    reasons = [filter_.judge(one).reason for one in documents]
    assert [reasons.count(r) for r in ("", "middle_perplexity", "tail_perplexity")] == [36, 36, 48]


def test_band_borders() -> None:
    limits = Limits(1.0, 2.0, 3.0)
    assert [band_of(score, limits) for score in (1.9, 2.0, 2.9, 3.0)] == ["head", "middle", "middle", "tail"]


def test_every_kind_has_its_own_limits_and_a_rare_one_those_of_all() -> None:
    draw = random.Random(9)
    chats = [
        document(
            1000 + i,
            "\n".join(
                f"A: {sentence(draw)} {' '.join(draw.choices(SUBJECTS + VERBS + PLACES, k=4))}"
                for _ in range(9)
            ),
            "chat",
        )
        for i in range(60)
    ]
    rare = [document(2000 + i, one.text, "rare") for i, one in enumerate(corpus(3))]
    filter_ = fitted([*corpus(), *chats, *rare])
    assert set(filter_.limits) == {"", "tales", "chat"}
    assert filter_.limits["chat"].head > filter_.limits["tales"].head
    assert filter_.judge(rare[0]).score is not None


def test_short_documents_and_small_corpora_are_not_judged() -> None:
    filter_ = fitted(corpus())
    assert filter_.judge(document(9, "the cat sat in the wood .")).score is None
    few = fitted(corpus(5))
    assert all(few.judge(one).score is None for one in corpus(5))


def test_order_of_the_documents_changes_nothing_and_a_sample_stays_small() -> None:
    documents = corpus()
    shuffled = random.Random(1).sample(documents, len(documents))
    for fields in ({}, {"sample_tokens": 2000}):
        one, other = fitted(documents, **fields), fitted(shuffled, **fields)
        assert one.limits.keys() == other.limits.keys()
        for kind in one.limits:
            assert one.limits[kind] == pytest.approx(other.limits[kind])
    vocabulary = Vocabulary()
    sample = build(Config(sample_tokens=2000))._sample(documents, vocabulary)
    assert 500 < sum(len(one.ids_T) for one in sample) <= 2000


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"head_frac": 0.7}, "must rise"),
        ({"fixed_discount": 1.0}, "fixed_discount"),
        ({"order": 0}, "order"),
        ({"keep_bands": ()}, "keep_bands"),
    ],
)
def test_config_names_what_is_wrong(fields, message) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(Config(), **fields)
