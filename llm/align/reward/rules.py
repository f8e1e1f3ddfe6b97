"""rules: rewards that are code: a story with given words, the last word of a sentence, a sum.

    {"kind": "words", "words": ["fox", "river"], "min_words": 20, "max_words": 60}
    {"kind": "cloze", "answer": "river"}
    {"kind": "sum", "answer": 42}

Equations   (1)-(4) in docs/align/reward/rules.md; comments below carry the same numbers.
Source      verifiable rewards: Lambert et al. 2024, arXiv 2411.15124, section 6
Differs     from the paper: `words` gives partial credit, so that a weak model has something to climb
"""

import re
from typing import Any

ECHO = 4  # that many words in a row as in the prompt are a copy of it, not a story
CROWD = 1 / 3  # a text with a larger share of required words is a list, not a story
KINDS = ("words", "cloze", "sum")

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_NUMBER = re.compile(r"-?\d{1,15}")  # a longer run of digits counts as several numbers


def score(rule: dict[str, Any], prompt_text: str, completion: str, *, ended: bool) -> float:
    """Reward of a completion in [0, 1]. ended: the model stopped by itself, it was not cut off.

    Raises:
        ValueError: a rule of another kind or without its fields.
    """
    kind = rule.get("kind")
    try:
        if kind == "words":
            return judge_words(rule, prompt_text, completion, ended=ended)["score"]
        if kind == "cloze":  # the whole answer is this one word
            return float(ended and split_words(completion) == split_words(rule["answer"]))
        if kind == "sum":  # the only number in the answer is the right one
            return float(ended and [int(n) for n in _NUMBER.findall(completion)] == [int(rule["answer"])])
    except KeyError as missing:
        raise ValueError(f"reward rule {rule}: missing key {missing}; run: dvc repro download") from None
    raise ValueError(f"reward rule: kind {kind!r} is not one of {', '.join(KINDS)}; run: dvc repro download")


def judge_words(rule: dict[str, Any], prompt_text: str, completion: str, *, ended: bool) -> dict[str, float]:
    """The parts of the `words` rule and their combination `score` (4), each in [0, 1]."""
    required = {word.casefold() for word in rule["words"]}
    words = without_echo(split_words(completion), split_words(prompt_text))
    found = required.intersection(words)
    parts = {
        "share": len(found) / len(required),  # (1)
        "length": length_window(len(words), rule["min_words"], rule["max_words"]),  # (2)
        "repetition": max(repeated(words), crowded(words, required)),  # (3)
        "ended": float(ended),
    }
    told = 0.75 * parts["share"] + 0.25 * parts["ended"]
    return {**parts, "score": parts["length"] * (1 - parts["repetition"]) * told}  # (4)


def split_words(text: str) -> list[str]:
    """Whole words, case folded; an apostrophe or hyphen inside a word belongs to it."""
    return [word.casefold() for word in _WORD.findall(text)]


def without_echo(words: list[str], prompt: list[str]) -> list[str]:
    """The words that are not part of a run of ECHO words copied from the prompt."""
    asked = {tuple(prompt[i : i + ECHO]) for i in range(len(prompt) - ECHO + 1)}
    copied = {
        i + offset
        for i in range(len(words) - ECHO + 1)
        if tuple(words[i : i + ECHO]) in asked
        for offset in range(ECHO)
    }
    return [word for i, word in enumerate(words) if i not in copied]


def length_window(count: int, least: int, most: int) -> float:
    """1 inside [least, most]; falls linearly to 0 at no words and at twice the most (2)."""
    if count < least:
        return count / least
    return max(0.0, 1 - (count - most) / most) if count > most else 1.0


def repeated(words: list[str]) -> float:
    """Share of three-word runs that occurred before (3)."""
    runs = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def crowded(words: list[str], required: set[str]) -> float:
    """0 while required words are at most CROWD of the text, 1 when there is nothing else (3)."""
    share = sum(word in required for word in words) / max(len(words), 1)
    return max(0.0, (share - CROWD) / (1 - CROWD))
