"""dedup: the speed of MinHash signatures beside datasketch and rensa, on the same documents in one run.

    python -m benchmarks.dedup --input data/raw/pretrain

Three comparisons of 128 places and runs of five words, one thread, sides in turn, the fastest of all rounds (a busy
machine slows the others):

text      Each side starts from the texts. datasketch and rensa take shingles as strings, which are cut here by the
          same `words` and joined with spaces.
strings   datasketch and rensa get these strings ready made; this project still starts from the texts.
hashes    Every side gets the same 64-bit hash of every distinct shingle, documents sorted by size: nothing but
          signatures is timed.

datasketch: `MinHash.generator`, which calls `update_batch` (its default scheme; for hashes an identity hash
function on the upper 32 bits, of which its scheme takes no more). rensa: the matrix interface of R-MinHash, its
fastest that reads every token.
"""

import os

os.environ |= {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # before anything starts its threads

import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import datasketch
import numpy as np
import rensa

from llm.data.dedup.minhash import Config, MinHash
from llm.data.document import read_documents
from llm.data.shingles import Hashed, shingle_hashes
from llm.data.words import words

_CONFIG = Config()
_K, _N = _CONFIG.n_hashes, _CONFIG.shingle_words

Side = Callable[[], object]


def shingle_strings(texts: list[str]) -> list[list[str]]:
    """The shingles of each text as strings, as the other libraries take them."""
    found = []
    for text in texts:
        cut = words(text)
        found.append([" ".join(cut[place : place + _N]) for place in range(max(1, len(cut) - _N + 1))])
    return found


def as_bytes(strings: list[list[str]]) -> list[list[bytes]]:
    return [[shingle.encode() for shingle in some] for some in strings]


def by_datasketch(tokens: list[list[bytes]]) -> object:
    return list(datasketch.MinHash.generator(tokens, num_perm=_K))


def by_rensa(tokens: list[list[str]]) -> object:
    return rensa.RMinHash.digest_matrix_from_token_sets(tokens, _K, 1)


def distinct(texts: list[str]) -> Hashed:
    """The distinct shingle hashes of each text, in the order of the texts, shortest first."""
    hashed = shingle_hashes(texts, _N)
    parts = [np.unique(part) for part in np.split(hashed.values, np.cumsum(hashed.sizes)[:-1])]
    shuffle = np.random.default_rng(1).permutation
    parts = [shuffle(part) for part in sorted(parts, key=len)]  # sorted values would be no fair order
    return Hashed(np.concatenate(parts), np.array([len(part) for part in parts], dtype=np.int64))


def comparisons(texts: list[str]) -> dict[str, dict[str, Side]]:
    """What is compared -> side -> what it does."""
    method = MinHash(_CONFIG)
    strings = shingle_strings(texts)
    byte_strings = as_bytes(strings)
    hashed = distinct(texts)
    offsets = np.concatenate([[0], np.cumsum(hashed.sizes)]).astype(np.uint64)
    numbers = [
        part.tolist() for part in np.split(hashed.values >> np.uint64(32), np.cumsum(hashed.sizes)[:-1])
    ]
    flat = rensa.RMinHash.digest_matrix_from_flat_token_hashes
    return {
        "text": {
            "here": lambda: method.signatures(texts),
            "datasketch": lambda: by_datasketch(as_bytes(shingle_strings(texts))),
            "rensa": lambda: by_rensa(shingle_strings(texts)),
        },
        "strings": {
            "here": lambda: method.signatures(texts),
            "datasketch": lambda: by_datasketch(byte_strings),
            "rensa": lambda: by_rensa(strings),
        },
        "hashes": {
            "here": lambda: method.sketch(hashed),
            "datasketch": lambda: list(
                datasketch.MinHash.generator(numbers, num_perm=_K, hashfunc=lambda value: value)
            ),
            "rensa": lambda: flat(hashed.values, offsets, _K, 1),
        },
    }


def seconds(side: Side) -> float:
    start = time.perf_counter()
    side()
    return time.perf_counter() - start


def main() -> None:
    cli = ArgumentParser(description=__doc__.partition("\n")[0])
    cli.add_argument("--input", type=Path, default=Path("data/raw/pretrain"))
    cli.add_argument("--every", type=int, default=4, help="take every n-th document")
    cli.add_argument("--rounds", type=int, default=15)
    args = cli.parse_args()
    texts = [document.text for document in read_documents(args.input / "train.jsonl")][:: args.every]
    n_words = sum(len(words(text)) for text in texts)
    print(f"{len(texts)} documents, {sum(map(len, texts)) / 1e6:.1f} MB, {n_words / 1e6:.2f} million words")
    for name, sides in comparisons(texts).items():
        taken: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(args.rounds):
            for side, work in sides.items():
                taken[side].append(seconds(work))
        best = {side: min(some) for side, some in taken.items()}
        ms = ", ".join(f"{side} {some * 1000:.1f} ms" for side, some in best.items())
        ratios = {side: best[side] / best["here"] for side in ("datasketch", "rensa")}
        speeds = ", ".join(f"{ratio:.2f} x {side}" for side, ratio in ratios.items())
        print(f"{name:8} {ms}; speed here: {speeds}", flush=True)


if __name__ == "__main__":
    main()
