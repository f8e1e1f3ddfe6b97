"""word_model: how surprising a text is, by an n-gram model of words and another one that spells unknown words.

Text is made alike first, as CCNet does: lower case, no accents, digits as 0, ASCII punctuation. A token is a
word, a punctuation mark, or one character of a script without spaces. Words seen once are `<unk>` to the model
of words, and teach the model of letters how rare words look; an unknown word costs `<unk>` *and* its spelling,
or random letters would be the most predictable text of all. Equations (1)-(3) in docs/data/word_model.md.

Shapes      T tokens, W words
"""

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm.data.kneser_ney import Discounts, Floats, Ints, KneserNey, fit, rooms
from llm.data.words import NO_SPACES, without_speakers

LINE_END, UNKNOWN = 0, 1  # ids, of words and of letters
_FIRST = 2  # the first id of a word that is known
_LETTERS_ORDER = 5
_N_CODE_POINTS = 0x110000

_TOKEN = re.compile(rf"\n|[{NO_SPACES}]|[^\W_{NO_SPACES}]+(?:'[^\W_{NO_SPACES}]+)*|[^\w\s]|_")
_ASCII_TOKEN = re.compile(r"\n|[a-z0-9]+(?:'[a-z0-9]+)*|[!-/:-@\[-`{-~]")
_DIGIT = re.compile(r"\d")
_PUNCTUATION = str.maketrans(
    {
        **dict.fromkeys("“”„«»「」『』《》〈〉", '"'),
        **dict.fromkeys("‘’‚´`", "'"),
        **dict.fromkeys("–—―−━", "-"),
        **dict.fromkeys("，、", ","),
        **dict.fromkeys("。．", "."),
        **dict(zip("：；？！（）【】％～…", (*":;?!()[]%~", "..."), strict=True)),
    }
)


def tokens(text: str) -> list[str]:
    """The tokens of a text; `\\n` stands for the end of a line."""
    text = without_speakers(text).lower()
    if text.isascii():
        return _ASCII_TOKEN.findall(_DIGIT.sub("0", text))
    bare = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    text = unicodedata.normalize("NFC", bare).translate(_PUNCTUATION)
    return _TOKEN.findall(_DIGIT.sub("0", text))


class Vocabulary:
    """Gives every token of a growing corpus a number."""

    def __init__(self) -> None:
        self.ids = {"\n": LINE_END}

    def encode(self, text: str) -> NDArray[np.int32]:
        """The numbers of a text's tokens, new ones given where needed; see `framed`."""
        ids = self.ids
        return framed([ids.setdefault(token, len(ids)) for token in tokens(text)]).astype(np.int32)


def framed(ids: Sequence[int]) -> Ints:
    """Line ends before the first and after the last line and between lines; none for empty lines."""
    framed_T = np.array([LINE_END, *ids, LINE_END], dtype=np.int64)
    doubled_T = (framed_T == LINE_END) & np.concatenate([[False], framed_T[:-1] == LINE_END])
    return framed_T[~doubled_T]


def joined(documents: Sequence[NDArray[np.int32]]) -> Ints:
    """Documents one after the other, as if they were one: a line end between them, not two."""
    return np.concatenate([[LINE_END], *(document[1:] for document in documents)]).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class WordModel:
    """word_ids, letter_ids: what is known, from 2 on. words, letters: the two models."""

    word_ids: dict[str, int]
    letter_ids: dict[str, int]
    words: KneserNey
    letters: KneserNey

    def perplexity(self, found: Sequence[str]) -> tuple[float, int]:
        """Perplexity per token of `tokens(text)`, line ends included, and their number without these (3)."""
        ids_T = framed([LINE_END if t == "\n" else self.word_ids.get(t, UNKNOWN) for t in found])
        if len(ids_T) == 1:
            return 1.0, 0
        logp_T = self.words.logp(ids_T, rooms(ids_T, LINE_END))
        unknown = [token for token in found if token != "\n" and token not in self.word_ids]
        total = logp_T.sum() + self.spelling(unknown).sum()
        return perplexity(total, len(ids_T) - 1), int((ids_T != LINE_END).sum())

    def spelling(self, words: Sequence[str]) -> Floats:
        """Log-probability of the letters of each word (2)."""
        if not words:
            return np.zeros(0)
        ids_T = framed(
            [i for word in words for i in (*(self.letter_ids.get(c, UNKNOWN) for c in word), LINE_END)]
        )
        logp_T = self.letters.logp(ids_T, rooms(ids_T, LINE_END))
        logp_T[ids_T == UNKNOWN] -= math.log(_N_CODE_POINTS)  # which of all characters it is
        starts = np.flatnonzero(ids_T == LINE_END)[:-1] + 1
        return np.add.reduceat(logp_T, starts)


def perplexity(total_logp: float, n_tokens: int) -> float:
    """exp(-mean log-probability), finite whatever the text."""
    return math.exp(min(-total_logp / n_tokens, 700.0))


def fit_words(
    names: Sequence[str],
    ids_T: Ints,
    *,
    order: int,
    discount: float | None,
    min_ngram_count: int,
    min_word_count: int = 2,
) -> WordModel:
    """Fit both models on a corpus of numbers, `names[number]` being the token.

    discount: one for all; three for each length are estimated without it. min_ngram_count: for n-grams of
    three tokens and more.
    """
    count_W = np.bincount(ids_T, minlength=len(names))
    known_W = count_W >= min_word_count
    known_W[LINE_END] = False
    id_W = np.where(known_W, _FIRST - 1 + np.cumsum(known_W), UNKNOWN)
    id_W[LINE_END] = LINE_END
    rare = np.flatnonzero((count_W > 0) & ~known_W & (np.arange(len(names)) != LINE_END))
    letter_ids, letters = _fit_letters([names[i] for i in rare.tolist()])
    return WordModel(
        word_ids={names[i]: int(id_W[i]) for i in np.flatnonzero(known_W).tolist()},
        letter_ids=letter_ids,
        words=_fit(
            id_W[ids_T], order, _FIRST + int(known_W.sum()), discount, (1, 1, *[min_ngram_count] * order)
        ),
        letters=letters,
    )


def _fit_letters(words: Sequence[str]) -> tuple[dict[str, int], KneserNey]:
    """How words are spelled that occur once; every such word counts alike."""
    alphabet = {
        letter: i for i, letter in enumerate(sorted({letter for word in words for letter in word}), _FIRST)
    }
    ids_T = framed([i for word in words for i in (*(alphabet[letter] for letter in word), LINE_END)])
    return alphabet, _fit(ids_T, _LETTERS_ORDER, _FIRST + len(alphabet), None, ())


def _fit(ids_T: Ints, order: int, n_words: int, discount: float | None, least: Sequence[int]) -> KneserNey:
    discounts: list[Discounts] | None = [(discount,) * 3] * order if discount else None
    return fit(
        ids_T,
        rooms(ids_T, LINE_END),
        order=order,
        n_words=n_words,
        boundary=LINE_END,
        discounts=discounts,
        min_counts=least,
    ).compact()
