"""arpa: the text format in which n-gram language models travel, written and read.

A file lists for every n-gram its probability and its back-off weight, both as decimal logarithms. KenLM, SRILM
and others read it, so a model fitted here can be used elsewhere and checked by another program.

`ArpaModel` looks up by the rule of the format and knows nothing of Kneser–Ney: its own dictionary of tuples,
one recursion. It is the readable counterpart of `KneserNey.logp`.
"""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from llm.data.kneser_ney import Ints, KneserNey
from llm.runtime import atomic_file

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
_NEVER = -99.0  # what the format writes for a probability of zero: nothing predicts the start


def write_arpa(path: Path, model: KneserNey, words: Sequence[str], boundary: int) -> None:
    """Write the model; `words` are its words in the order of their ids, `<unk>` among them.

    The boundary is `</s>` where it is predicted and `<s>` where it is what comes before.
    """
    columns = _word_columns(model)
    with atomic_file(path) as handle:
        handle.write("\\data\\\n")
        for n, ids_GN in enumerate(columns, 1):
            handle.write(f"ngram {n}={len(ids_GN) + (n == 1)}\n")
        for n, ids_GN in enumerate(columns, 1):
            handle.write(f"\n\\{n}-grams:\n")
            for line in _lines(model, n, ids_GN, words, boundary):
                handle.write(line + "\n")
        handle.write("\n\\end\\\n")


class ArpaModel:
    """n-grams -> (log10 probability, log10 back-off weight)."""

    def __init__(self, ngrams: dict[tuple[str, ...], tuple[float, float]]) -> None:
        self.ngrams = ngrams
        self.order = max(map(len, ngrams))

    def score(self, words: Sequence[str]) -> float:
        """log10 probability of one line with its end."""
        known = [word if (word,) in self.ngrams else UNKNOWN for word in words]
        line = [START, *known, END]
        return sum(
            self.log10(tuple(line[max(0, i - self.order + 1) : i]), line[i]) for i in range(1, len(line))
        )

    def log10(self, context: tuple[str, ...], word: str) -> float:
        """The n-gram's own probability where it is listed, else that of the shorter one, weighted."""
        found = self.ngrams.get((*context, word))
        if found:
            return found[0]
        if not context:
            return _NEVER
        backoff = self.ngrams.get(context, (0.0, 0.0))[1]
        return backoff + self.log10(context[1:], word)


def read_arpa(path: Path) -> ArpaModel:
    """Read a file of this format. Raises ValueError where a line is none of it."""
    ngrams: dict[tuple[str, ...], tuple[float, float]] = {}
    length = 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if header := re.fullmatch(r"\\(\d+)-grams:", line):
            length = int(header.group(1))
        elif length and line and line != "\\end\\":
            parts = line.split("\t")
            words = tuple(parts[1].split(" ")) if len(parts) in (2, 3) else ()
            if len(words) != length:
                raise ValueError(
                    f"{path}:{number}: not an n-gram of {length} words ({line!r}); write it anew"
                )
            ngrams[words] = (float(parts[0]), float(parts[2]) if len(parts) == 3 else 0.0)
    if not ngrams:
        raise ValueError(f"{path}: no n-grams; is it an ARPA file?")
    return ArpaModel(ngrams)


def _word_columns(model: KneserNey) -> list[Ints]:
    """The words of all n-grams of each length, one n-gram a row: the keys taken apart."""
    columns = [model.tables[0].keys_G[:, None]]
    for table in model.tables[1:]:
        context_G, last_G = np.divmod(table.keys_G, model.n_words)
        columns.append(np.concatenate([columns[-1][context_G], last_G[:, None]], axis=1))
    return columns


def _lines(model: KneserNey, n: int, ids_GN: Ints, words: Sequence[str], boundary: int) -> Iterator[str]:
    table = model.tables[n - 1]
    for ids, logp, backoff in zip(ids_GN.tolist(), table.logp_G, table.backoff_G, strict=True):
        log10, weight = (
            logp / math.log(10),
            f"\t{backoff / math.log(10):.9g}" if n < len(model.tables) else "",
        )
        if n == 1 and ids == [boundary]:
            yield f"{_NEVER}\t{START}{weight}"
            yield f"{log10:.9g}\t{END}"
            continue
        names = [words[i] for i in ids]
        if ids[0] == boundary:
            names[0] = START
        if ids[-1] == boundary:
            names[-1], weight = END, ""
        yield f"{log10:.9g}\t{' '.join(names)}{weight}"
