"""Laws of every de-duplication method: a signature depends on its text alone, clusters on no order."""

import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm import registry
from llm.data.dedup import simhash
from llm.data.dedup.base import Dedup
from llm.data.deduplicate import DedupParams, deduplicate
from llm.data.document import Document
from llm.data.paragraphs import none as no_paragraphs

FAMILY = "llm.data.dedup"
CONFIGS = {kind: registry.module(FAMILY, kind).Config() for kind in registry.kinds(FAMILY)} | {
    "simhash, words by idf": simhash.Config(shingle_words=1, weights="idf")
}
KINDS = list(CONFIGS)
FINDING = [kind for kind in KINDS if kind != "none"]
WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "bdklmnrst"]


def build(kind: str) -> Dedup:
    method: Dedup = registry.build(CONFIGS[kind])
    return method


def fitted(kind: str, texts: list[str]) -> Dedup:
    method = build(kind)
    if method.needs_fit:
        method.fit([method.look(texts)])
    return method


def text(seed: int, n_words: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=n_words))


def document(name: str, text: str) -> Document:
    return Document(id=name, source="test", kind="tales", licence="CC0", work=name, text=text)


@pytest.mark.parametrize("kind", KINDS)
def test_a_signature_depends_on_its_own_text_alone(kind: str) -> None:
    texts = [text(1), "", text(2), "short", text(1), text(3, 4000)]
    together = fitted(kind, texts).signatures(texts)
    apart = np.concatenate([fitted(kind, texts).signatures([one]) for one in texts])
    assert together.shape[0] == len(texts)
    np.testing.assert_array_equal(together, apart)


@pytest.mark.parametrize("kind", KINDS)
def test_a_method_survives_the_way_to_another_process(kind: str) -> None:
    method = fitted(kind, [text(4), text(5)])
    copy = pickle.loads(pickle.dumps(method))
    np.testing.assert_array_equal(copy.signatures([text(4)]), method.signatures([text(4)]))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if build(kind).needs_fit])
def test_the_looks_of_shards_in_any_order_give_the_same_signatures(kind: str) -> None:
    texts = [text(seed, 20 + 50 * seed) for seed in range(7)] + ["", "short"]
    whole, shards = fitted(kind, texts), build(kind)
    shards.fit(shards.look(texts[i : i + 2]) for i in (4, 0, 8, 2, 6))
    np.testing.assert_array_equal(whole.signatures(texts), shards.signatures(texts))


@pytest.mark.parametrize("kind", FINDING)
def test_copies_are_found_and_the_first_one_stands_for_all(kind: str) -> None:
    texts = [text(1), text(2), text(1), text(3), text(2), text(1)]
    assert build(kind).duplicates(texts).tolist() == [0, 1, 0, 3, 1, 0]


@pytest.mark.parametrize("kind", FINDING)
def test_line_breaks_and_case_make_no_difference(kind: str) -> None:
    original = text(5)
    reflowed = original.upper().replace(" ", "\n")
    assert build(kind).duplicates([original, text(6), reflowed]).tolist() == [0, 1, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_different_texts_are_never_joined(kind: str) -> None:
    texts = [text(seed) for seed in range(60)]
    assert build(kind).duplicates(texts).tolist() == list(range(60))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_compare_is_no_error(kind: str) -> None:
    assert build(kind).duplicates([]).tolist() == []
    assert build(kind).duplicates(["lonely"]).tolist() == [0]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.sampled_from(["", "a b", "A  b", text(1), text(2), text(1) + " end", "你好，世界"])))
def test_a_stand_in_stands_for_itself_and_comes_first(kind: str, texts: list[str]) -> None:
    roots = build(kind).duplicates(texts)
    assert (roots <= np.arange(len(texts))).all()
    np.testing.assert_array_equal(roots[roots], roots)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kept_documents_do_not_depend_on_the_order_of_the_input(kind: str) -> None:
    config = CONFIGS[kind]
    none = registry.module(FAMILY, "none").Config()
    documents = [document(f"d{i}", text(i % 7, 1500) + " tail" * (i // 7)) for i in range(21)]
    kept = []
    for seed in range(3):
        shuffled = random.Random(seed).sample(documents, len(documents))
        result = deduplicate(
            shuffled, [], DedupParams(exact=none, near=config, paragraphs=no_paragraphs.Config())
        )
        kept.append(sorted(kept_document.id for kept_document in result.kept))
    assert kept[0] == kept[1] == kept[2]
    assert len(kept[0]) == (21 if kind in ("none", "exact") else 7)
