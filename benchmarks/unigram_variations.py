"""unigram_variations: what each choice in learning a Unigram vocabulary is worth.

    python -m benchmarks.unigram_variations --input data/clean

Learns from the training split and measures on both: log-likelihood and tokens of the best path, per word (as far
as words are written in the alphabet). The table of docs/tokenizer/algorithms/unigram_teaching.md.
"""

import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.tokenizers import read_texts
from benchmarks.unigram import Counts, quality
from llm.tokenizer import unigram_training as training
from llm.tokenizer.byte_level import count_words
from llm.tokenizer.lattice import Pieces
from llm.tokenizer.lattices import Floats, Lattices
from llm.tokenizer.unigram import Learning, choose_alphabet, stretches

Learn = Callable[[Counts, int], Pieces]


def main() -> None:
    cli = ArgumentParser(description=__doc__)
    cli.add_argument("--input", type=Path, default=Path("data/clean"))
    cli.add_argument("--pieces", type=int, default=3836)
    args = cli.parse_args()

    words = count_words(read_texts(args.input / "train.jsonl"))
    alphabet = choose_alphabet(words, Learning().character_coverage, args.pieces)
    counts = stretches(words, alphabet)
    unseen = stretches(count_words(read_texts(args.input / "validation.jsonl")), alphabet)
    print(
        "| variation | CPU seconds | training: log-likelihood | tokens | validation: log-likelihood | tokens |"
    )
    print("|---|---|---|---|---|---|")
    for name, learn in VARIATIONS.items():
        t0 = time.process_time()
        pieces = learn(counts, args.pieces)
        seconds = time.process_time() - t0
        cells = [f"{value:.4f}" for split in (counts, unseen) for value in quality(pieces, split)]
        print(f"| {name} | {seconds:.2f} | {' | '.join(cells)} |", flush=True)


def with_params(min_frequency: int = 2, **changes: float) -> Learn:
    learning = Learning(**changes)  # type: ignore[arg-type]
    return lambda counts, size: training.learn(counts, size, min_frequency, learning)


def with_other(name: str, other: object) -> Learn:
    """The trainer with one of its parts replaced."""

    def learn(counts: Counts, size: int) -> Pieces:
        with mock.patch.object(training, name, other):
            return training.learn(counts, size, 2, Learning())

    return learn


def distinct(counts: Counts, size: int) -> Pieces:
    return training.learn(counts, size, 2, Learning(), dict.fromkeys(counts, 1))


def by_probability(corpus: training.Corpus, _: Lattices, scores: Floats, n_kept: int) -> np.ndarray:
    kept = corpus.piece_lengths == 1
    ranked = np.argsort(-np.where(kept, -np.inf, scores), kind="stable")
    kept[ranked[: n_kept - int(kept.sum())]] = True
    return kept


VARIATIONS: dict[str, Learn] = {
    "as it is": with_params(),
    "seeds counted once a distinct word": distinct,
    "log for digamma": with_other("digamma", np.log),
    "pruned by probability, not by loss": with_other("prune", by_probability),
    "1 EM step a round": with_other("N_EM_STEPS", 1),
    "4 EM steps a round": with_other("N_EM_STEPS", 4),
    "shrink 0.1": with_params(shrink=0.1),
    "shrink 0.5": with_params(shrink=0.5),
    "shrink 0.9": with_params(shrink=0.9),
    "min_frequency 10": with_params(10),
    "min_frequency 100": with_params(100),
    "max_piece_length 4": with_params(max_piece_length=4),
    "max_piece_length 8": with_params(max_piece_length=8),
}


if __name__ == "__main__":
    main()
