"""Perplexity: sort documents into head, middle and tail by how well an n-gram model predicts them.

Equations   (1)-(2) in docs/data/filters/perplexity.md; the model's in docs/data/kneser_ney.md
Source      Wenzek et al. 2020 (CCNet), arXiv 1911.00359, section 3.3; Chen & Goodman 1998, TR-10-98, Harvard
Cost        fit: O(sample_tokens · order) time and memory; judge: O(tokens · order · log n-grams)
Differs     from CCNet: fitted on the corpus itself in folds, no document being judged by a model that has seen it;
            words instead of SentencePiece; limits for each kind of document; the most predictable are dropped too
Shapes      T tokens
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm.data.document import Document
from llm.data.filters.base import Filter, Verdict, drop, keep
from llm.data.word_model import Vocabulary, WordModel, fit_words, joined, tokens
from llm.runtime import progress

Band = Literal["head", "middle", "tail"]
_ALL = ""  # the limits of all kinds together


@dataclass(frozen=True, kw_only=True)
class Config:
    """keep_bands: which thirds to keep. head_frac, middle_frac: percentiles at which head and middle end.

    predictable_frac: share of the least surprising documents, dropped as boilerplate. order: longest n-grams.
    discount: `modified` Kneser–Ney, or the one in `fixed_discount`. min_ngram_count: of n-grams of three words
    and more. folds: parts of the corpus; a document is judged by the model of the other parts (1: by a model of
    all). sample_tokens: how much to fit on. min_tokens: shorter documents stay unjudged. min_docs: kinds with
    fewer judged documents take the limits of the whole corpus; a corpus with fewer has none.
    """

    keep_bands: tuple[Band, ...] = ("head", "middle")
    head_frac: float = 0.3
    middle_frac: float = 0.6
    predictable_frac: float = 0.01
    order: int = 5
    discount: Literal["modified", "fixed"] = "modified"
    fixed_discount: float = 0.75
    min_ngram_count: int = 2
    folds: int = 2
    sample_tokens: int = 10_000_000
    min_tokens: int = 50
    min_docs: int = 50

    def __post_init__(self) -> None:
        if not 0.0 <= self.predictable_frac <= self.head_frac <= self.middle_frac <= 1.0:
            raise ValueError(
                f"predictable_frac ({self.predictable_frac}), head_frac ({self.head_frac}) and middle_frac "
                f"({self.middle_frac}) must rise within [0, 1]"
            )
        if not 0.0 < self.fixed_discount < 1.0:
            raise ValueError(f"fixed_discount ({self.fixed_discount}) must lie between 0 and 1")
        least = min(
            self.order, self.min_ngram_count, self.folds, self.sample_tokens, self.min_tokens, self.min_docs
        )
        if least < 1 or not self.keep_bands:
            raise ValueError(
                f"order ({self.order}), min_ngram_count ({self.min_ngram_count}), folds ({self.folds}), sample_tokens "
                f"({self.sample_tokens}), min_tokens ({self.min_tokens}), min_docs ({self.min_docs}) must be "
                f"positive, keep_bands ({', '.join(self.keep_bands)}) not empty"
            )


class _Sampled(NamedTuple):
    place: int  # where its hash puts it among all documents, in 2**32
    fold: int
    kind: str
    ids_T: NDArray[np.int32]


class Limits(NamedTuple):
    """Perplexities below which a document is boilerplate, head, middle."""

    predictable: float
    head: float
    middle: float


class Perplexity(Filter):
    """Bands of documents by perplexity."""

    reasons = ("too_predictable", "middle_perplexity", "tail_perplexity", "head_perplexity")
    needs_fit = True

    def __init__(self, config: Config) -> None:
        self.config = config
        self.models: list[WordModel] = []
        self.limits: dict[str, Limits] = {}

    def fit(self, documents: Iterable[Document]) -> None:
        vocabulary = Vocabulary()
        sample = self._sample(documents, vocabulary)
        names = list(vocabulary.ids)
        self.models = [self._fit_fold(fold, sample, names) for fold in range(self.config.folds)]
        scores: dict[str, list[float]] = {_ALL: []}
        for fold, model in enumerate(self.models):
            mine = [doc for doc in sample if doc.fold == fold]
            for doc in progress(mine, f"perplexity, fold {fold + 1}"):
                score, n_tokens = model.perplexity([names[i] for i in doc.ids_T.tolist()])
                if n_tokens >= self.config.min_tokens:
                    scores.setdefault(doc.kind, []).append(score)
                    scores[_ALL].append(score)
        quantiles = (self.config.predictable_frac, self.config.head_frac, self.config.middle_frac)
        self.limits = {
            kind: Limits(*np.quantile(found, quantiles).tolist())  # (2)
            for kind, found in scores.items()
            if len(found) >= self.config.min_docs
        }

    def judge(self, document: Document) -> Verdict:
        text = document.text
        limits = self.limits.get(document.kind) or self.limits.get(_ALL)
        if limits is None:
            return keep(text)
        _, fold = _place(document.id, self.config.folds)
        score, n_tokens = self.models[fold].perplexity(tokens(text))  # (1)
        if n_tokens < self.config.min_tokens:
            return keep(text)
        if score < limits.predictable:
            return drop("too_predictable", text, score)
        band = band_of(score, limits)
        if band in self.config.keep_bands:
            return keep(text, score, {band: 1})
        return drop(f"{band}_perplexity", text, score)

    def _sample(self, documents: Iterable[Document], vocabulary: Vocabulary) -> list[_Sampled]:
        """Every document while they are few, then a half, a quarter … of them, by hash: order plays no part."""
        sample: list[_Sampled] = []
        limit, n_tokens = 1 << 32, 0
        for document in documents:
            place, fold = _place(document.id, self.config.folds)
            if place >= limit:
                continue
            ids_T = vocabulary.encode(document.text)
            sample.append(_Sampled(place, fold, document.kind, ids_T))
            n_tokens += len(ids_T)
            while n_tokens > self.config.sample_tokens and limit > 1:
                limit //= 2
                sample = [doc for doc in sample if doc.place < limit]
                n_tokens = sum(len(doc.ids_T) for doc in sample)
        return sample

    def _fit_fold(self, fold: int, sample: list[_Sampled], names: list[str]) -> WordModel:
        """A model of the other folds, or of all where there is nothing in the others."""
        others = [doc.ids_T for doc in sample if doc.fold != fold] or [doc.ids_T for doc in sample]
        fixed = self.config.fixed_discount if self.config.discount == "fixed" else None
        return fit_words(
            names,
            joined(others),
            order=self.config.order,
            discount=fixed,
            min_ngram_count=self.config.min_ngram_count,
        )


def band_of(score: float, limits: Limits) -> Band:
    """The band a perplexity falls into (2)."""
    return "head" if score < limits.head else "middle" if score < limits.middle else "tail"


def _place(name: str, folds: int) -> tuple[int, int]:
    """Where the hash of a document's id puts it among all, in 2^32, and its fold: equal in every process."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little") % folds


build = Perplexity
