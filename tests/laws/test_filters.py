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
ARTICLE = (
    "The old garden behind the mill is open again. Anyone may walk there from morning to evening, and children pay "
    "nothing!\nIt was laid out by a miller who loved apple trees. He planted forty of them with his own hands, and "
    "most still bear fruit.\nWould you like to see them in blossom? Then come in the first week of May, when "
    "the gardeners show visitors around and tell them what each tree is called."
)
# Kinds whose rules are made for web pages: a chat has no full stops, and a short tale few words.
FOR_PAGES = {"gopher_quality", "gopher_repetition", "c4", "fineweb"}
PAGE = "<html><body><div><p>The hen and the cat.</p></div></body></html>"


def document(text: str, kind: str = "tales") -> Document:
    return Document(id="d", source="test", kind=kind, licence="CC0", work="w", text=text)


ITEM = "seven grey mice asked one wise owl where all its cheese had been yesterday"  # 14 words
KNOWN, STRANGE = "the cat the cat the cat", "zork quibble flumph zork"
BANDS: dict[str, Any] = {  # so that the three texts `build` fits on make limits
    **dict.fromkeys(("min_docs", "min_tokens", "min_ngram_count", "folds"), 1),
    **{"predictable_frac": 0.0, "keep_bands": ("head", "middle", "tail")},
}


@dataclass(frozen=True)
class Case:
    """A text that is dropped for the reason, and one that just is not."""

    trigger: str
    near_miss: str
    config: dict[str, Any] = field(default_factory=dict)
    kind: str = "tales"


def repeating(n: int, n_chars: int) -> str:
    """Six runs of n five-letter words that occur twice each: 30n characters of `n_chars` in all."""
    text = " ".join([LONG, *(" ".join([f"q{i}", *WORDS[i * n : (i + 1) * n]]) for i in range(6))])
    return text + " " + "z" * (n_chars - len(text) - 1)


def between(phrase: str, times: int) -> str:
    """A phrase again and again in a text in which no longer run of words repeats."""
    return " ".join([LONG, *(f"{phrase} {word}" for word in WORDS[:times])])


SENTENCES = "The hen sat there. She had five eggs! Was one large? It broke.\n"
LINES = [f"the {word} hen sat in the sun of the yard" for word in WORDS]

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
    ("language", "other_language"): Case(
        "Die Katze schlief auf den warmen Steinen.",
        "The cat, die Katze, slept on the warm stones of the garden that day.",
    ),
    ("language", "uncertain_language"): Case(
        "And then again? hahaha hahaha hahaha hahaha", "In the garden hahaha hahaha hahaha hahaha"
    ),
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
    ("gopher_quality", "too_short"): Case(
        " ".join(["the and", *WORDS[:47]]), " ".join(["the and", *WORDS[:48]])
    ),
    ("gopher_quality", "too_long"): Case(f"{LONG} and hens", f"{LONG} and", {"max_words": 102}),
    ("gopher_quality", "words_too_short"): Case("the and at", "the and cat", {"min_words": 3}),
    ("gopher_quality", "words_too_long"): Case(
        "the and " + "x" * 25, "the and " + "x" * 24, {"min_words": 3, "max_mean_word": 10.0}
    ),
    ("gopher_quality", "hashes"): Case(
        "the and # #" + " hens" * 8, "the and #" + " hens" * 8, {"min_words": 5}
    ),
    ("gopher_quality", "ellipses"): Case(
        "the ... and …" + " hens" * 8, "the ... and" + " hens" * 8, {"min_words": 5}
    ),
    ("gopher_quality", "bullets"): Case(
        "\n".join(f"- {x}" for x in LINES[:11]), "\n".join([*(f"  • {x}" for x in LINES[:9]), LINES[9]])
    ),
    ("gopher_quality", "ellipsis_lines"): Case(
        "...\n".join(LINES[:4]) + "... \n" + "\n".join(LINES[4:10]),
        "...\n".join(LINES[:10:3]) + "\n" + "\n".join(LINES[1:7]),
    ),
    ("gopher_quality", "no_letters"): Case(
        "the and hen fox 10 11", "the and hen fox 10", {"min_words": 5, "min_mean_word": 2}
    ),
    ("gopher_quality", "no_stop_words"): Case(
        "The and hens foxes ducks", "the and hens foxes ducks", {"min_words": 5}
    ),
    ("gopher_repetition", "empty"): Case("", "hen"),
    ("gopher_repetition", "duplicate_paragraphs"): Case(LONG + "\n\nab" * 2, LONG + "\n\nab" * 2 + "\n\ncd"),
    ("gopher_repetition", "duplicate_paragraph_chars"): Case(
        LONG + ("\n\n" + "x" * 220) * 2,
        LONG + ("\n\n" + "x" * 190) * 2,
        {"max_duplicate_paragraphs_frac": 1.0, "max_duplicate_lines_frac": 1.0},
    ),
    ("gopher_repetition", "duplicate_lines"): Case(LONG + "\nab" * 2, LONG + "\nab" * 2 + "\ncd"),
    ("gopher_repetition", "duplicate_line_chars"): Case(
        LONG + ("\n" + "x" * 220) * 2, LONG + ("\n" + "x" * 190) * 2, {"max_duplicate_lines_frac": 1.0}
    ),
    ("gopher_repetition", "top_2_gram"): Case(between("big wolf", 25), between("big wolf", 24)),
    ("gopher_repetition", "top_3_gram"): Case(between("big bad wolf", 13), between("big bad wolf", 12)),
    ("gopher_repetition", "top_4_gram"): Case(between("the big bad wolf", 8), between("the big bad wolf", 7)),
    **{
        ("gopher_repetition", f"duplicate_{n}_grams"): Case(
            repeating(n, int(30 * n / limit) - 1), repeating(n, int(30 * n / limit) + 1)
        )
        for n, limit in zip(range(5, 11), (0.15, 0.14, 0.13, 0.12, 0.11, 0.10), strict=True)
    },
    ("c4", "lorem_ipsum"): Case(
        SENTENCES * 2 + "Lorem ipsum dolor sit.", SENTENCES * 2 + "Lorem ipsum dolor sit"
    ),
    ("c4", "curly_bracket"): Case(SENTENCES * 2 + "See { and so on.", SENTENCES * 2 + "See { and so on"),
    ("c4", "too_few_sentences"): Case(SENTENCES + "Two words.", SENTENCES + "Now three words."),
    ("fineweb", "empty"): Case("\n \n", "The hen sat in the sun of the yard."),
    ("fineweb", "few_terminal_lines"): Case("\n".join(LINES[:9]) + ".", "\n".join(LINES[:8]) + "."),
    ("fineweb", "short_lines"): Case(
        f"{LINES[0]}.\n" + "The hen sat down there.\n" * 3,
        f"{LINES[0]}.\nThe hen sat down there.\nThe fox sat down there.",
    ),
    ("fineweb", "duplicate_line_chars"): Case(
        ".\n".join([*LINES[:9], LINES[0], LINES[1], ""]), ".\n".join([*LINES[:10], LINES[0], ""])
    ),
    ("fineweb", "newlines"): Case(
        f"{LINES[0]}.\n\n\n\n{LINES[1]}", f"{LINES[0]}.\n\n\n{LINES[1]}", {"max_newlines_per_word": 0.15}
    ),
    ("simplicity", "not_simple"): Case(
        "the cat the quux", "the cat the cat quux the cat", {"vocabulary": 2, "min_share": 0.8}
    ),
    ("contamination", "contaminated"): Case(f"{LONG} {ITEM}", f"{LONG} {ITEM[10:-9]}"),
    ("contamination", "contaminated_everywhere"): Case(
        f"{LONG} {ITEM} {LONG} {ITEM} {LONG}",
        f"{LONG} {ITEM} {LONG}",
        {"action": "cut", "margin": 1, "max_pieces": 2},
    ),
    ("perplexity", "too_predictable"): Case(
        KNOWN, STRANGE, BANDS | {"predictable_frac": 0.5, "head_frac": 0.5}
    ),
    ("perplexity", "head_perplexity"): Case(
        KNOWN, STRANGE, BANDS | {"head_frac": 0.5, "keep_bands": ("middle", "tail")}
    ),
    ("perplexity", "middle_perplexity"): Case(
        TALE, STRANGE, BANDS | {"head_frac": 0.0, "middle_frac": 0.99, "keep_bands": ("head", "tail")}
    ),
    ("perplexity", "tail_perplexity"): Case(STRANGE, KNOWN, BANDS | {"keep_bands": ("head", "middle")}),
    ("pii", "forbidden_pii"): Case(
        "card 4111 1111 1111 1111", "card 4111 1111 1111 1112", {"actions": {"card": "drop"}}
    ),
    ("pii", "too_much_pii"): Case("x@example.org " * 6, "x@example.org " * 5),
}


def build(kind: str, config: dict[str, Any] | None = None) -> Filter:
    if kind == "normalize":
        return Normalize(NormalizeParams(**(config or {})))
    filter_: Filter = registry.build(registry.module(FAMILY, kind).Config(**(config or {})))
    if filter_.needs_references:
        filter_.refer({"quiz": [(ITEM,)]})
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


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (kind, text)
        for kind in [*KINDS, "normalize"]
        for text in ([ARTICLE] if kind in FOR_PAGES else [TALE, CHAT])
    ],
)
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
