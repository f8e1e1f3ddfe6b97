"""rules: prompts whose answers a program can check, and supervised examples of the same prompts.

words    "Write a short story with the words king, door, apple."   all words, length in a window
cloze    "Finish the sentence with one word: …"                     the word the author wrote
sums     "What is 7 + 25?"                                          the number

The reward for them is code (llm/align/reward/rules.py), so reinforcement learning needs no reward model.
"""

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llm.data.document import Document
from llm.data.tasks.text import content_words, is_whole, paragraphs, sentences, words

WORDS = "Write a short story with the words {words}."
CLOZE = "Finish the sentence with one word: {sentence}"
SUMS = "What is {a} + {b}?"

_LAST_WORD = re.compile(r"([^\"]*\S)\s([A-Za-z]+)[.!?]")
_MAX_MISSES = 1000  # draws in a row without a new prompt
_GENERATED = {"source": "generated", "licence": "CC0-1.0"}


@dataclass(frozen=True, kw_only=True)
class RuleParams:
    """min_rank, max_rank: frequency ranks between which a noun-like word may be asked for.
    n_words: words in a prompt. min_words, max_words: length asked for and rewarded.
    min_chars, max_chars: length of a sentence with a gap.
    """

    min_rank: int = 200
    max_rank: int = 2000
    n_words: int = 3
    min_words: int = 10
    max_words: int = 60
    min_chars: int = 30
    max_chars: int = 160

    def __post_init__(self) -> None:
        for low, high in (("min_rank", "max_rank"), ("min_words", "max_words"), ("min_chars", "max_chars")):
            if not 0 <= getattr(self, low) < getattr(self, high):
                raise ValueError(
                    f"{low} ({getattr(self, low)}) must be less than {high} ({getattr(self, high)})"
                )
        if self.n_words < 1:
            raise ValueError(f"n_words ({self.n_words}) must be at least 1")


def vocabulary(texts: list[str], params: RuleParams) -> list[str]:
    """The words that prompts ask for: noun-like words of middling frequency."""
    return content_words(texts, min_rank=params.min_rank, max_rank=params.max_rank)


# ---------------------------------------------------------------- prompts with rules


def words_prompts(
    vocabulary: list[str], params: RuleParams, rng: random.Random, split: str
) -> Iterator[Document]:
    """Random words of the vocabulary, until new combinations become rare; each belongs to one split only."""
    seen: set[str] = set()
    misses = 0
    while len(vocabulary) >= params.n_words and misses < _MAX_MISSES:
        chosen = rng.sample(vocabulary, params.n_words)
        key = "words/" + "-".join(sorted(chosen))
        misses += 1
        if _split_of(key) != split or key in seen:
            continue
        seen.add(key)
        misses = 0
        rule = {
            "kind": "words",
            "words": chosen,
            "min_words": params.min_words,
            "max_words": params.max_words,
        }
        yield _prompt("words", key, WORDS.format(words=", ".join(chosen)), rule, _GENERATED)


def cloze_prompts(gaps: list["Gap"], rng: random.Random) -> Iterator[Document]:
    """Sentences of the split's stories without their last word."""
    for gap in rng.sample(gaps, len(gaps)):
        rule = {"kind": "cloze", "answer": gap.answer}
        yield _prompt("cloze", gap.key, CLOZE.format(sentence=gap.sentence), rule, gap.origin)


def sums_prompts(rng: random.Random, split: str) -> Iterator[Document]:
    """Sums of one- and two-digit numbers; a sum belongs to one split only."""
    for a, b in _pairs(rng, split):
        rule = {"kind": "sum", "answer": str(a + b)}
        yield _prompt("sums", f"sums/{a}+{b}", SUMS.format(a=a, b=b), rule, _GENERATED)


# ---------------------------------------------------------------- the same prompts with real answers


def words_examples(
    stories: list[Document], vocabulary: list[str], params: RuleParams, rng: random.Random
) -> Iterator[Document]:
    """A short paragraph of a story answers the prompt made of `n_words` of its own words."""
    known = set(vocabulary)
    places = []
    for story in stories:
        for number, paragraph in enumerate(paragraphs(story.text)):
            present = words(paragraph)
            nouns = sorted(known.intersection(present))
            fits = params.min_words <= len(present) <= params.max_words and is_whole(paragraph)
            if fits and len(nouns) >= params.n_words:
                places.append((story, number, paragraph, nouns))
    rng.shuffle(places)
    for story, number, paragraph, nouns in places:
        chosen = ", ".join(rng.sample(nouns, params.n_words))
        yield _example(
            f"words/{story.id}/{number}",
            WORDS.format(words=chosen),
            " ".join(paragraph.split()),
            _origin(story),
        )


def cloze_examples(gaps: list["Gap"], rng: random.Random) -> Iterator[Document]:
    """The word the author wrote answers the prompt."""
    for gap in rng.sample(gaps, len(gaps)):
        yield _example(gap.key, CLOZE.format(sentence=gap.sentence), gap.answer, gap.origin)


def sums_examples(rng: random.Random, split: str) -> Iterator[Document]:
    """The number answers the prompt."""
    for a, b in _pairs(rng, split):
        yield _example(f"sums/{a}+{b}", SUMS.format(a=a, b=b), str(a + b), _GENERATED)


# ---------------------------------------------------------------- parts


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A sentence that lost its last word."""

    key: str
    sentence: str
    answer: str
    origin: dict[str, str]


def gaps(stories: list[Document], vocabulary: list[str], params: RuleParams) -> list[Gap]:
    """Unquoted sentences that end with a word of the vocabulary."""
    known = set(vocabulary)
    found = []
    for story in stories:
        number = 0
        for paragraph in paragraphs(story.text):
            for sentence in sentences(paragraph):
                match = _LAST_WORD.fullmatch(sentence)
                number += 1
                if match and params.min_chars <= len(sentence) <= params.max_chars and match[2] in known:
                    key = f"cloze/{story.id}/{number}"
                    found.append(Gap(key=key, sentence=match[1], answer=match[2], origin=_origin(story)))
    return found


def _pairs(rng: random.Random, split: str) -> Iterator[tuple[int, int]]:
    """All pairs of the split once: one of one-digit terms and one with a two-digit term in turn, then the rest."""
    pairs = [(a, b) for a in range(100) for b in range(100) if _split_of(f"sums/{a}+{b}") == split]
    rng.shuffle(pairs)
    small = [pair for pair in pairs if max(pair) < 10]
    large = [pair for pair in pairs if max(pair) >= 10]
    for easy, hard in zip(small, large, strict=False):
        yield easy
        yield hard
    yield from large[len(small) :]


def _split_of(key: str) -> str:
    """A fifth of the generated prompts is for validation; what falls where depends on the prompt alone."""
    return "validation" if hashlib.sha256(key.encode()).digest()[0] < 51 else "train"


def _origin(story: Document) -> dict[str, str]:
    return {"source": story.source, "licence": story.licence, "work": story.work}


def _prompt(kind: str, key: str, prompt: str, rule: dict[str, Any], origin: dict[str, str]) -> Document:
    data = {"prompt": [{"role": "user", "content": prompt}], "rule": rule}
    return Document(id=f"prompt-{key}", kind=kind, data=data, **{"work": key, **origin})


def _example(key: str, prompt: str, answer: str, origin: dict[str, str]) -> Document:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return Document(id=f"sft-{key}", kind="rule", data={"messages": messages}, **{"work": key, **origin})
