"""Laws of every filter: each reason has a document that triggers it and a near miss; ordinary text passes."""

import pickle
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm import registry
from llm.data.document import Document
from llm.data.filters.base import Filter, Verdict
from llm.data.normalize import Normalize, NormalizeParams

FAMILY = "llm.data.filters"
KINDS = registry.kinds(FAMILY)
TALE = (
    "In the garden all the apple-trees were in blossom. They had hastened to bring forth flowers before they got "
    "green leaves, and in the yard all the ducklings walked up and down, and the cat too: it basked in the sun "
    "and licked the sunshine from its own paws. If x < y then y > x, said the old hen, and nobody listened."
)
CHAT = (
    "A: hello\nB: Hey What's going on?\nA: just got back from watching venom\nB: oh nice\n"
    "A: so now I'm going to do some homework <3 double audit classes tomorrow\nB: ok...\nA: ok\nB: see you at 8:30"
)
WORDS = [a + b + c for a in ("ba", "do", "ki", "lu") for b in ("ma", "ne", "so", "ti", "ru") for c in "ndrst"]
LONG = " ".join(["the", *WORDS])  # 101 different words
PAGE = "<html><body><div><p>The hen and the cat.</p></div></body></html>"


def document(text: str, kind: str = "tales") -> Document:
    return Document(id="d", source="test", kind=kind, licence="CC0", work="w", text=text)


@dataclass(frozen=True)
class Case:
    """A text that is dropped for the reason, and one that just is not."""

    trigger: str
    near_miss: str
    config: dict[str, Any] = field(default_factory=dict)
    kind: str = "tales"


CASES: dict[tuple[str, str], Case] = {
    ("normalize", "broken_encoding"): Case("caf\ufffd " * 10 + "x" * 900, "caf\ufffd " + "x" * 1100),
    ("html", "oversized_markup"): Case("<div>" * 6 + "deep", "<div>" * 5 + "deep", {"max_depth": 5}),
    ("html", "mostly_markup"): Case(
        "<p class='" + "x" * 300 + "'>a</p><br><br>",
        "<p class='" + "x" * 300 + "'>a long word</p><br><br>",
    ),
    ("main_content", "oversized_markup"): Case(
        "<div>" * 6 + "x" * 30, "<div>" * 5 + "x" * 30, {"max_depth": 5}
    ),
    ("main_content", "no_main_content"): Case("<html><p>" + "x" * 24, "<html><p>" + "x" * 25),
    ("quality", "too_short"): Case("the " + " ".join(WORDS[:8]), "the " + " ".join(WORDS[:9])),
    ("quality", "too_long"): Case(
        "the " + " ".join(WORDS[:20]), "the " + " ".join(WORDS[:19]), {"max_words": 20}
    ),
    ("quality", "words_too_short"): Case("at the " * 5 + "at", "at the " * 6),
    ("quality", "words_too_long"): Case(
        "the " + "abcdefghijk " * 10, "the " + "abcdefghij " * 10, {"max_words": 50}
    ),
    ("quality", "symbols"): Case("# # the " + "old hen " * 9, "# # the cat " + "old hen " * 9),
    ("quality", "bullets"): Case("- the cats and hens\n" * 10, "- the cats and hens\n" * 9 + "the end"),
    ("quality", "ellipsis_lines"): Case(
        "the cat and then so...\n" * 2 + "the hen and all of them\n" * 2,
        "the cat and then so...\n" * 2 + "the hen and all of them\n" * 3,
    ),
    ("quality", "no_letters"): Case("the cat 111 222 333 hens " * 2, "the cat 111 hens dogs mice " * 2),
    ("quality", "no_stop_words"): Case(" ".join(WORDS[:10]), " ".join(["the", *WORDS[:10]])),
    ("quality", "swearing"): Case(
        f"A: the {' '.join(WORDS[:8])}\nB: oh Shit!",
        f"A: the {' '.join(WORDS[:8])}\nB: oh Shitake!",
        kind="chat",
    ),
    ("quality", "duplicate_lines"): Case(
        LONG + "\n" + "same old line\n" * 4,
        LONG + "\n" + "same old line\n" * 3,
        {"max_duplicate_lines_frac": 0.5},
    ),
    ("quality", "common_ngram"): Case(LONG + " big bad wolf" * 10, LONG + " big bad wolf" * 9),
    ("quality", "duplicate_ngrams"): Case(
        " ".join([LONG, *WORDS[:80]]), " ".join([LONG, *WORDS[:40]]), {"max_duplicate_ngram_chars_frac": 0.35}
    ),
    ("simplicity", "not_simple"): Case(
        "the cat the quux", "the cat the cat quux the cat", {"vocabulary": 2, "min_share": 0.8}
    ),
    ("pii", "too_much_pii"): Case("x@example.org " * 6, "x@example.org " * 5),
}


def build(kind: str, config: dict[str, Any] | None = None) -> Filter:
    if kind == "normalize":
        return Normalize(NormalizeParams(**(config or {})))
    filter_: Filter = registry.build(registry.module(FAMILY, kind).Config(**(config or {})))
    if filter_.needs_fit:
        filter_.fit([document("the cat " * 5 + "quux"), document(TALE), document(CHAT)])
    return filter_


def test_every_reason_has_its_case() -> None:
    wanted = {(kind, reason) for kind in [*KINDS, "normalize"] for reason in build(kind).reasons}
    assert set(CASES) == wanted


@pytest.mark.parametrize(("kind", "reason"), CASES)
def test_the_trigger_is_dropped_for_this_reason(kind: str, reason: str) -> None:
    case = CASES[kind, reason]
    verdict = build(kind, case.config).judge(document(case.trigger, case.kind))
    assert (verdict.keep, verdict.reason) == (False, reason)


@pytest.mark.parametrize(("kind", "reason"), CASES)
def test_the_near_miss_is_kept(kind: str, reason: str) -> None:
    case = CASES[kind, reason]
    verdict = build(kind, case.config).judge(document(case.near_miss, case.kind))
    assert (verdict.keep, verdict.reason) == (True, "")


@pytest.mark.parametrize("kind", [*KINDS, "normalize"])
@pytest.mark.parametrize("text", [TALE, CHAT], ids=["tale", "chat"])
def test_ordinary_text_passes_unchanged(kind: str, text: str) -> None:
    verdict = build(kind).judge(document(text, "chat" if text is CHAT else "tales"))
    assert verdict.keep
    assert verdict.text == text
    assert verdict.edits == {}


@pytest.mark.parametrize("kind", [*KINDS, "normalize"])
@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(), max_size=200) | st.text("<>/ab &;p@1.-+\n\r\u200d", max_size=200))
def test_judge_answers_whatever_the_text(kind: str, text: str) -> None:
    filter_ = build(kind)
    verdict = filter_.judge(document(text))
    assert isinstance(verdict, Verdict)
    assert verdict.reason in (filter_.reasons if not verdict.keep else ("",))
    assert filter_.judge(document(text)) == verdict


@pytest.mark.parametrize("kind", [*KINDS, "normalize"])
def test_a_fitted_filter_judges_alike_in_another_process(kind: str) -> None:
    filter_ = build(kind)
    copy = pickle.loads(pickle.dumps(filter_))
    for text in (TALE, CHAT, PAGE, "ping 8.8.8.8", "quux zork"):
        assert copy.judge(document(text)) == filter_.judge(document(text))


@pytest.mark.parametrize("kind", [kind for kind in [*KINDS, "normalize"] if not build(kind).needs_fit])
def test_a_filter_that_needs_no_fit_refuses_one(kind: str) -> None:
    with pytest.raises(TypeError, match="needs no fit"):
        build(kind).fit([])
