"""kneser_ney: take a part of the n-gram model away and see what held-out text costs.

    python -m benchmarks.kneser_ney --input data/clean

Every model is fitted on train.jsonl and measured on validation.jsonl, over the same words: those that occur twice
in the training text, all others being <unk>. Perplexity is per token, line ends included; no spelling of unknown
words.
"""

import math
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

from llm.data import kneser_ney
from llm.data.document import read_documents
from llm.data.kneser_ney import Ints, KneserNey, fit, rooms
from llm.data.word_model import LINE_END, UNKNOWN, Vocabulary, joined

ORDER = 5
FIRST = 2  # the first id of a word that is known
Fit = Callable[[Ints, int], KneserNey]


def fit_with(**changes: object) -> Fit:
    """A model with some arguments of `fit` changed."""

    def model(ids_T: Ints, n_words: int) -> KneserNey:
        arguments = {"order": ORDER, "n_words": n_words, "boundary": LINE_END} | changes
        return fit(ids_T, rooms(ids_T, LINE_END), **arguments)  # type: ignore[arg-type]

    return model


def without_continuation_counts(ids_T: Ints, n_words: int) -> KneserNey:
    """Shorter n-grams by how often they occur, as long ones are: absolute discounting."""
    with mock.patch.object(kneser_ney, "_adjusted", lambda counts, ids, boundary: counts):
        return fit_with()(ids_T, n_words)


def one_discount(value: float, order: int = ORDER) -> Fit:
    return fit_with(order=order, discounts=[(value,) * 3] * order)


VARIANTS: dict[str, Fit] = {
    "modified Kneser–Ney, 5 words": fit_with(),
    "one discount of 0.75 for all counts": one_discount(0.75),
    "hardly any discount: 0.1": one_discount(0.1),
    "no discount": one_discount(0.0),
    "counts instead of continuation counts": without_continuation_counts,
    "n-grams of 3 words and more at least twice": fit_with(min_counts=(1, 1, 2, 2, 2)),
    "4 words": fit_with(order=4),
    "3 words": fit_with(order=3),
    "2 words": fit_with(order=2),
    "1 word": fit_with(order=1),
}


def read(folder: Path) -> tuple[Ints, Ints, int]:
    """Both splits as numbers of known words, and how many there are."""
    vocabulary = Vocabulary()
    train = joined([vocabulary.encode(document.text) for document in read_documents(folder / "train.jsonl")])
    held_out = joined([vocabulary.encode(d.text) for d in read_documents(folder / "validation.jsonl")])
    known_W = np.bincount(train, minlength=len(vocabulary.ids)) >= 2
    known_W[LINE_END] = False
    id_W = np.where(known_W, FIRST - 1 + np.cumsum(known_W), UNKNOWN)
    id_W[LINE_END] = LINE_END
    return id_W[train], id_W[held_out], FIRST + int(known_W.sum())


def main() -> None:
    cli = ArgumentParser(description=__doc__.partition("\n")[0])
    cli.add_argument("--input", type=Path, default=Path("data/clean"))
    args = cli.parse_args()
    train_T, held_T, n_words = read(args.input)
    print(f"{len(train_T):,} tokens to fit on, {len(held_T):,} held out, {n_words:,} words\n")
    print("| model | perplexity, held out | perplexity, text it was fitted on | n-grams |\n|---|--:|--:|--:|")
    for name, make in VARIANTS.items():
        with np.errstate(divide="ignore", invalid="ignore"):
            model = make(train_T, n_words)
            held, seen = (perplexity(model, ids_T) for ids_T in (held_T, train_T[: len(held_T)]))
        print(f"| {name} | {held} | {seen} | {sum(len(t.keys_G) for t in model.tables):,} |", flush=True)


def perplexity(model: KneserNey, ids_T: Ints) -> str:
    """Perplexity, or which share of the tokens is impossible."""
    logp_T = model.logp(ids_T, rooms(ids_T, LINE_END))[1:]
    impossible = np.isneginf(logp_T) | np.isnan(logp_T)
    return (
        f"∞ ({impossible.mean():.0%} of the tokens)"
        if impossible.any()
        else f"{math.exp(-logp_T.mean()):.1f}"
    )


if __name__ == "__main__":
    main()
