"""Make tests/golden/datatrove.json: what the filters of datatrove say about documents at every limit.

    python tests/golden/make_datatrove.py        (datatrove 0.10.1, spacy 3.8, nltk 3.10; no network)

Most documents are families text(k): k is raised until datatrove's answer becomes the wanted reason, and the
texts before and after that step are kept. The last ones are the beginnings of documents of the default corpus
(data/raw/pretrain, `dvc repro download`): tales in the public domain, chats under the MIT licence.
"""

import importlib.metadata
import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.utils.text import split_into_words

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY = [
    "".join(p) for p in itertools.product("bdfgklmnprst", "aeiou", "bdfgklmnprst", ["an", "ek", "ost"])
]
STOPS = ["the", "and", "that", "with"]
# their arguments for the limits that are not the same by default, or too high for a small document
FINEWEB_AS_IN_THE_PAPER = {"char_duplicates_ratio": 0.1}


def prose(n: int, seed: int = 0) -> str:
    """n different words in sentences of ten, two of them stop words."""
    draw = random.Random(seed).sample(VOCABULARY, n)
    draw[1 : min(3, n)] = STOPS[: max(0, min(3, n) - 1)]
    return " ".join(word + "." if i % 10 == 9 else word for i, word in enumerate(draw))


def lines(n: int, words: int = 8, seed: int = 0) -> list[str]:
    """n different lines of prose that end with a full stop."""
    return [f"the {prose(words - 2, seed * 1000 + i).rstrip('.')} with {VOCABULARY[i]}." for i in range(n)]


def of_length(total: int, n: int) -> list[str]:
    """n words of letters with `total` letters in all, all but the last ones of equal length."""
    size, longer = divmod(total, n)
    return ["x" * (size + (i >= n - longer)) for i in range(n)]


def phrases(k: int, n: int, times: int, gap: int = 1) -> str:
    """k different n-word phrases, each `times` times, other words between them, in 700 words at least."""
    draw = random.Random(7)
    fresh = iter(draw.sample(VOCABULARY, len(VOCABULARY)))
    chosen = [[next(fresh) for _ in range(n)] for _ in range(k)]
    order = chosen * times
    text: list[str] = ["the", "and"]
    for phrase in order:
        text += [*phrase, *(next(fresh) for _ in range(gap))]
    text += [next(fresh) for _ in range(max(0, 500 - len(text)))]
    return " ".join(text)


Family = tuple[str, Callable[[int], str], dict[str, Any]]  # wanted reason, text(k), arguments of the filter

QUALITY: list[Family] = [
    ("gopher_short_doc", lambda k: prose(60 - k), {}),
    ("gopher_long_doc", lambda k: prose(50 + k), {"max_doc_words": 60}),
    ("gopher_below_avg_threshold", lambda k: " ".join(["the", "and", *of_length(174 + 5 - k, 58)]), {}),
    ("gopher_above_avg_threshold", lambda k: " ".join(["the", "and", *of_length(590 + k, 58)]), {}),
    ("gopher_too_many_hashes", lambda k: prose(54) + " #" * k, {}),
    ("gopher_too_many_ellipsis", lambda k: " ".join(["..."] * k) + " " + prose(54), {}),
    ("gopher_too_many_ellipsis", lambda k: "… " * k + prose(63), {}),
    (
        "gopher_too_many_bullets",
        lambda k: "\n".join("- " * (i < k) + line for i, line in enumerate(lines(20))),
        {},
    ),
    (
        "gopher_too_many_bullets",
        lambda k: "\n".join("  •" * (i < k) + line for i, line in enumerate(lines(10))),
        {},
    ),
    (
        "gopher_too_many_end_ellipsis",
        lambda k: "\n".join(line[:-1] + ("..." if i < k else ".") for i, line in enumerate(lines(20))),
        {},
    ),
    (
        "gopher_too_many_end_ellipsis",
        lambda k: "\n\n".join(line[:-1] + (" … " if i < k else ".") for i, line in enumerate(lines(12))),
        {},
    ),
    ("gopher_below_alpha_threshold", lambda k: prose(59) + " 1234" * k, {}),
    ("gopher_below_alpha_threshold", lambda k: prose(59) + " ," * k, {}),
    ("gopher_enough_stop_words", lambda k: " ".join(VOCABULARY[:60] + STOPS[: 3 - k]), {}),
    ("gopher_enough_stop_words", lambda k: " ".join([*VOCABULARY[:60], "with", "The" if k else "the"]), {}),
]


def _paragraphs(k: int, n: int, repeated: str, gap: str) -> str:
    return gap.join([*lines(n - k - 1), *[repeated] * (k + 1)])


REPETITION: list[Family] = [
    ("empty", lambda k: "" if k else prose(60), {}),
    ("dup_para_frac", lambda k: _paragraphs(k, 20, "short one.", "\n\n"), {}),
    ("dup_para_char_frac", lambda k: _paragraphs(k, 60, " ".join(lines(2)), "\n\n"), {}),
    ("dup_line_frac", lambda k: _paragraphs(k, 20, "short one.", "\n"), {}),
    ("dup_line_char_frac", lambda k: _paragraphs(k, 60, " ".join(lines(2)), "\n"), {}),
    *((f"top_{n}_gram", lambda k, n=n: phrases(1, n, k + 1, gap=3), {}) for n in (2, 3, 4)),
    *((f"duplicated_{n}_n_grams", lambda k, n=n: phrases(k, n, 2), {}) for n in range(5, 11)),
]

GOOD = ["The old hen sat in the sun.", "She had five eggs there!", "Was one of them large?"]


def _page(*added: str, good: int = 6) -> str:
    return "\n".join([*(GOOD * 3)[:good], *added])


C4: list[Family] = [
    ("too_few_sentences", lambda k: _page(good=7 - k), {}),
    ("too_few_sentences", lambda k: " ".join((GOOD * 3)[: 7 - k]), {}),
    ("too_few_sentences", lambda k: _page("Two words." if k else "Now three words.", good=4), {}),
    ("too_few_sentences", lambda k: _page("No end mark is here" + ("" if k else "."), good=4), {}),
    ("too_few_sentences", lambda k: _page("It ends with dots" + ("..." if k else "?"), good=4), {}),
    ("too_few_sentences", lambda k: _page("One word is long " + "x" * (999 + k) + " here.", good=4), {}),
    (
        "too_few_sentences",
        lambda k: _page("Please turn on " + ("JavaScript." if k else "scripts."), good=4),
        {},
    ),
    (
        "too_few_sentences",
        lambda k: _page("We use " + ("cookies here." if k else "cookie here."), good=4),
        {},
    ),
    ("too_few_sentences", lambda k: _page("Read our Privacy " + ("Policy." if k else "Notice."), good=4), {}),
    ("too_few_sentences", lambda k: _page("He said 'it is so" + (",'" if k < 1 else ",’"), good=4), {}),
    ("lorem_ipsum", lambda k: _page("Lorem " + ("Ipsum" if k else "opsum") + " dolor sit amet."), {}),
    ("curly_bracket", lambda k: _page("Write if (a) " + ("{" if k else "(") + " in the code."), {}),
]
C4_TEXTS = [
    _page("A line without its end", "", "   ", "The end is near.", "  The blanks go.  ", "var x = {};"),
    _page("It was so [12] and this too[edit].", "He knew [citation needed] nothing.", "Note this.[3]"),
    _page("A lorem ipsum without end", "{ also without end", "Javascript may be here: { see it."),
]

FINEWEB: list[Family] = [
    ("empty", lambda k: "\n \n" if k else "\n".join(lines(4)), {}),
    (
        "line_punct_ratio",
        lambda k: "\n".join(line if i >= k else line[:-1] for i, line in enumerate(lines(25))),
        {},
    ),
    (
        "line_punct_ratio",
        lambda k: "\n".join(line[:-1] + ("。" if i >= k else ',"') for i, line in enumerate(lines(30))),
        {},
    ),
    (
        "short_line_ratio",
        lambda k: "\n".join(
            "the hen and cat " + VOCABULARY[i] if i < k else x for i, x in enumerate(lines(100))
        ),
        {},
    ),
    ("short_line_ratio", lambda k: "\n".join(line[: 31 - k] + "." for line in lines(5)), {}),
    ("char_dup_ratio", lambda k: _paragraphs(k, 60, "the line that is here again and again.", "\n"), {}),
    (
        "char_dup_ratio",
        lambda k: _paragraphs(1, 60, "the" + " line" * k + " is here.", "\n"),
        {"char_duplicates_ratio": 0.01},
    ),
    ("list_ratio", lambda k: "\n".join(line + "\n" * 3 * (i < k) for i, line in enumerate(lines(40))), {}),
    ("list_ratio", lambda k: "\n".join(lines(6, words=12)) + "\n" * k, {}),
]


def answer(filter_: Any, text: str) -> tuple[str, str]:
    """Reason (empty: kept) and the text, which C4 edits."""
    document = Document(text=text, id="0")
    result = filter_.filter(document)
    return ("", document.text) if result is True else (result[1], "")


def at_the_limit(make: Callable[..., Any], families: list[Family]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The texts on both sides of the step at which the wanted reason appears."""
    for wanted, family, arguments in families:
        filter_ = make(**arguments)
        for k in range(400):
            if answer(filter_, family(k))[0] == wanted:
                assert k > 0, f"{wanted} from the start"
                yield family(k - 1), arguments
                yield family(k), arguments
                break
        else:
            raise AssertionError(f"{wanted} never appears")


def real_texts() -> list[str]:
    """Beginnings of seven tales and seven chats."""
    found: dict[str, list[str]] = {"tales": [], "chat": []}
    with open(ROOT / "data/raw/pretrain/validation.jsonl", encoding="utf-8") as handle:
        for line in handle:
            record = json.loads(line)
            found[record["kind"]].append(record["text"])
    return [text[:1200] for texts in found.values() for text in texts[:: len(texts) // 7][:7]]


def main() -> None:
    real = real_texts()
    jobs = [
        ("gopher_quality", GopherQualityFilter, {}, QUALITY, []),
        ("gopher_repetition", GopherRepetitionFilter, {}, REPETITION, []),
        ("c4", C4QualityFilter, {}, C4, C4_TEXTS),
        ("fineweb", FineWebQualityFilter, FINEWEB_AS_IN_THE_PAPER, FINEWEB, []),
    ]
    cases = []
    for kind, cls, base, families, more in jobs:
        make = lambda cls=cls, base=base, **arguments: cls(**base | arguments)  # noqa: E731
        texts = [*at_the_limit(make, families), *((text, {}) for text in [*more, *real])]
        for text, arguments in texts:
            reason, edited = answer(make(**arguments), text)
            case = {"kind": kind, "arguments": arguments, "text": text, "reason": reason}
            case["n_tokens"] = len(split_into_words(text))
            cases.append(case | ({"edited": edited} if kind == "c4" and not reason else {}))
    versions = {name: importlib.metadata.version(name) for name in ("datatrove", "spacy", "nltk")}
    out = {"command": "python tests/golden/make_datatrove.py", "versions": versions, "cases": cases}
    path = Path(__file__).with_name("datatrove.json")
    path.write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(len(cases), path.stat().st_size)


if __name__ == "__main__":
    main()
