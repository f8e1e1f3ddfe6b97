"""The filters of Gopher, C4 and FineWeb against the library datatrove, at every limit and on real documents.

tests/golden/datatrove.json is made by tests/golden/make_datatrove.py.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm import registry
from llm.data.document import Document
from llm.data.filters.base import Filter, Verdict
from llm.data.filters.gopher_repetition import duplicate_ngram_chars, top_ngram_chars
from llm.data.ngrams import repeats
from llm.data.text_stats import numbered, tokens

CASES = json.loads((Path(__file__).parents[3] / "golden" / "datatrove.json").read_text(encoding="utf-8"))[
    "cases"
]
# their reason -> ours, their argument -> our field
REASONS = {
    "gopher_short_doc": "too_short",
    "gopher_long_doc": "too_long",
    "gopher_below_avg_threshold": "words_too_short",
    "gopher_above_avg_threshold": "words_too_long",
    "gopher_too_many_hashes": "hashes",
    "gopher_too_many_ellipsis": "ellipses",
    "gopher_too_many_bullets": "bullets",
    "gopher_too_many_end_ellipsis": "ellipsis_lines",
    "gopher_below_alpha_threshold": "no_letters",
    "gopher_enough_stop_words": "no_stop_words",
    "dup_para_frac": "duplicate_paragraphs",
    "dup_para_char_frac": "duplicate_paragraph_chars",
    "dup_line_frac": "duplicate_lines",
    "dup_line_char_frac": "duplicate_line_chars",
    **{f"top_{n}_gram": f"top_{n}_gram" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": f"duplicate_{n}_grams" for n in range(5, 11)},
    "line_punct_ratio": "few_terminal_lines",
    "short_line_ratio": "short_lines",
    "char_dup_ratio": "duplicate_line_chars",
    "list_ratio": "newlines",
    **{same: same for same in ("", "empty", "lorem_ipsum", "curly_bracket", "too_few_sentences")},
}
FIELDS = {"max_doc_words": "max_words", "char_duplicates_ratio": "max_duplicate_line_chars_frac"}


def build(kind: str, **config: Any) -> Filter:
    filter_: Filter = registry.build(registry.module("llm.data.filters", kind).Config(**config))
    return filter_


def judge(kind: str, text: str, **config: Any) -> Verdict:
    return build(kind, **config).judge(
        Document(id="d", source="s", kind="web", licence="l", work="w", text=text)
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['kind']}-{case['reason'] or 'kept'}")
def test_decision_reason_and_text_are_datatroves(case: dict[str, Any]) -> None:
    config = {FIELDS[name]: value for name, value in case["arguments"].items()}
    verdict = judge(case["kind"], case["text"], **config)
    assert (verdict.keep, verdict.reason) == (not case["reason"], REASONS[case["reason"]])
    if verdict.keep:
        assert verdict.text == case.get("edited", case["text"])


def test_every_reason_was_compared() -> None:
    for kind in ("gopher_quality", "gopher_repetition", "c4", "fineweb"):
        seen = Counter(REASONS[case["reason"]] for case in CASES if case["kind"] == kind)
        assert set(seen) == {"", *build(kind).reasons}
        assert seen[""] >= len(seen) - 1


def test_tokens_are_nearly_spacys() -> None:
    ours = [len(tokens(case["text"])) for case in CASES]
    theirs = [case["n_tokens"] for case in CASES]
    assert abs(sum(ours) / sum(theirs) - 1) < 0.005
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if b >= 50]
    assert max(abs(a / b - 1) for a, b in pairs) < 0.11  # spaCy leaves `•the` in one piece


def plain_top(found: list[str], n: int) -> int:
    grams = [" ".join(found[i : i + n]) for i in range(len(found) - n + 1)]
    if not grams:
        return 0
    [(gram, count)] = Counter(grams).most_common(1)
    return len(gram) * count


def plain_duplicates(found: list[str], n: int) -> int:
    seen, chars, i = set(), 0, 0
    while i <= len(found) - n:
        gram = tuple(found[i : i + n])
        if gram in seen:
            chars += sum(map(len, gram))
            i += n
        else:
            seen.add(gram)
            i += 1
    return chars


@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=40))
def test_repetition_is_what_the_definition_says(found: list[str]) -> None:
    ids_W, lengths_W = numbered(found)
    for each in repeats(ids_W, np.zeros_like(ids_W), 10, within=True):
        assert top_ngram_chars(each, lengths_W) == plain_top(found, each.n)
        assert duplicate_ngram_chars(each, lengths_W) == plain_duplicates(found, each.n)


PAGE = "Home\nThe hen [1] sat there.\nShe had five eggs! Was one large? It was.\n\nUse JavaScript here.\nAnd it broke."


def test_c4_counts_what_it_removes() -> None:
    verdict = judge("c4", PAGE)
    assert verdict.text == "The hen  sat there.\nShe had five eggs! Was one large? It was.\nAnd it broke."
    assert (verdict.score, verdict.edits) == (5, {"citations": 1, "javascript": 1, "no_end_mark": 1})


def test_c4_leaves_code_alone_where_it_is_told_to() -> None:
    page = PAGE + "\nif (a) { b(); } is code."
    assert judge("c4", page).reason == "curly_bracket"
    assert judge("c4", page, curly_brackets=False).keep


def test_a_blank_after_the_full_stop_hides_nothing_from_fineweb() -> None:
    page = "\n".join(f"The hen number {i} sat in the warm sun. " for i in range(4))
    assert judge("fineweb", page).keep


@pytest.mark.parametrize(
    ("kind", "bad", "message"),
    [
        ("gopher_quality", {"min_words": 9, "max_words": 8}, "must not exceed max_words"),
        ("gopher_quality", {"max_hash_frac": 1.5}, "max_hash_frac"),
        ("gopher_repetition", {"max_top_ngram_chars": (0.2,)}, "must hold 3 limits, for n = 2 to 4"),
        ("gopher_repetition", {"max_duplicate_lines_frac": -0.1}, "max_duplicate_lines_frac"),
        ("c4", {"min_sentences": -1}, "min_sentences"),
        ("c4", {"max_word_chars": 0}, "max_word_chars"),
        ("fineweb", {"short_line_chars": -1}, "short_line_chars"),
    ],
)
def test_a_config_out_of_range_is_refused(kind: str, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(kind, **bad)
