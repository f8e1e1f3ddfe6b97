"""planted_duplicates: what each method finds of copies that were planted into real text, change by change.

    python -m benchmarks.planted_duplicates --input data/raw/pretrain
    python -m benchmarks.planted_duplicates --figure docs/images/planted_duplicates.png

Every text gets one changed copy. A method sees texts and copies together; a copy joined to its own text is
right, every other join is wrong. For MinHash the table also says what theory expects of its bands: the mean of
P(J) over the true similarities J of the pairs, and of P(J)·[J >= threshold] where candidates are verified.
"""

import random
import re
import textwrap
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm import registry
from llm.data.dedup import exact, minhash, simhash
from llm.data.dedup.base import Dedup
from llm.data.document import read_documents
from llm.data.shingles import jaccard, shingles

METHODS = {
    "exact": exact.Config(),
    "minhash, bands alone": minhash.Config(verify=False),
    "minhash": minhash.Config(),
    "simhash": simhash.Config(),
    "simhash, words by idf": simhash.Config(shingle_words=1, weights="idf"),
}
EDIT_RATES = (0.01, 0.02, 0.05, 0.10, 0.20)
_WIDTH = 60  # characters of a re-flowed line
_KEPT_SHARE = 0.8  # of a truncated text
_MIN_WORDS = 50

_SHINGLE = minhash.Config().shingle_words

Floats = NDArray[np.float64]
Change = Callable[[str, random.Random], str]


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one method made of one change. found: copies joined to their text; wrong: other joins.

    expected: recall in theory, where there is one. similarity: mean true Jaccard of the pairs.
    """

    change: str
    method: str
    recall: float
    precision: float
    expected: float | None
    similarity: float
    n_pairs: int


def changes(vocabulary: Sequence[str]) -> dict[str, Change]:
    """Name -> a way to change a text; `vocabulary` holds the words that replace others."""
    edits = {f"{rate:.0%} of words": _edit(rate, vocabulary) for rate in EDIT_RATES}
    return {
        "none": lambda text, draw: text,
        "re-flowed": lambda text, draw: _reflow(text),
        "upper case": lambda text, draw: text.upper(),
        "lower case": lambda text, draw: text.lower(),
        "title case": lambda text, draw: text.title(),
        **edits,
        "paragraphs shuffled": _shuffle,
        "last fifth cut off": lambda text, draw: text[: round(len(text) * _KEPT_SHARE)],
    }


def plant(texts: Sequence[str], change: Change, seed: int) -> list[str]:
    """A changed copy of each text."""
    return [change(text, random.Random(seed * 1_000_003 + number)) for number, text in enumerate(texts)]


def _reflow(text: str) -> str:
    """Other line ends, no paragraphs."""
    return textwrap.fill(" ".join(text.split()), _WIDTH, break_on_hyphens=False, break_long_words=False)


def _edit(rate: float, vocabulary: Sequence[str]) -> Change:
    """Replace each word with this probability by one drawn from the vocabulary; white space stays."""

    def change(text: str, draw: random.Random) -> str:
        parts = re.split(r"(\s+)", text)
        return "".join(
            draw.choice(vocabulary) if place % 2 == 0 and part and draw.random() < rate else part
            for place, part in enumerate(parts)
        )

    return change


def _shuffle(text: str, draw: random.Random) -> str:
    """Put the paragraphs, or where there is only one the lines, into another order."""
    border = "\n\n" if "\n\n" in text.strip() else "\n"
    parts = text.strip().split(border)
    draw.shuffle(parts)
    return border.join(parts)


def score(
    name: str, method: Dedup, texts: Sequence[str], copies: Sequence[str], change: str, similarity: Floats
) -> Score:
    """Join texts and copies, count what was joined."""
    n = len(texts)
    roots = method.duplicates([*texts, *copies])
    own = roots[n:] == roots[:n]
    joins = int((roots != np.arange(2 * n)).sum())
    return Score(
        change=change,
        method=name,
        recall=float(own.mean()),
        precision=float(own.sum() / joins) if joins else 1.0,
        expected=expected_recall(method, similarity),
        similarity=float(similarity.mean()),
        n_pairs=n,
    )


def expected_recall(method: Dedup, similarity: Floats) -> float | None:
    """The mean chance that MinHash finds pairs of these similarities."""
    if not isinstance(method, minhash.MinHash):
        return None
    chance = method.curve(similarity)
    if method.config.verify:
        chance = chance * (similarity >= method.config.threshold)
    return float(chance.mean())


def measure(texts: Sequence[str], methods: Mapping[str, object], seed: int = 1) -> list[Score]:
    """All changes, all methods."""
    vocabulary = sorted({word for text in texts for word in text.split()})
    found = []
    for change, function in changes(vocabulary).items():
        copies = plant(texts, function, seed)
        pairs = zip(texts, copies, strict=True)
        similarity = np.array([jaccard(shingles(a, _SHINGLE), shingles(b, _SHINGLE)) for a, b in pairs])
        for name, config in methods.items():
            found.append(score(name, registry.build(config), texts, copies, change, similarity))
    return found


def read_texts(folder: Path, n_texts: int) -> list[str]:
    """Texts of at least 50 words, evenly spread over the file."""
    long = [d.text for d in read_documents(folder / "train.jsonl") if len(d.text.split()) >= _MIN_WORDS]
    return [long[number * len(long) // n_texts] for number in range(min(n_texts, len(long)))]


def draw_figure(path: Path, scores: Sequence[Score]) -> None:
    """Recall over changes, one line of points for each method, expectations as rings."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    labels = list(dict.fromkeys(score.change for score in scores))
    methods = list(dict.fromkeys(score.method for score in scores))
    for number, method in enumerate(methods):
        rows = [score for score in scores if score.method == method]
        offset = (number - (len(methods) - 1) / 2) * 0.8 / len(methods)
        places = np.arange(len(rows)) + offset
        axes.bar(places, [row.recall for row in rows], 0.72 / len(methods), label=method, color=f"C{number}")
        rings = [(x, row.expected) for x, row in zip(places, rows, strict=True) if row.expected is not None]
        if rings:
            axes.plot(*zip(*rings, strict=True), "o", mfc="none", color="black", ms=4)
    axes.plot([], [], "o", mfc="none", color="black", ms=4, label="expected")
    axes.set_xticks(range(len(labels)), labels, rotation=35, ha="right", fontsize=8)
    axes.set(ylabel="share of planted copies found", ylim=(0, 1.05))
    axes.grid(visible=True, axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def print_table(scores: Sequence[Score]) -> None:
    """A Markdown table: recall, in brackets the expected one; precision where it is not 1."""
    methods = list(dict.fromkeys(score.method for score in scores))
    print("| change | J | " + " | ".join(methods) + " |")
    print("|---|" + "---|" * (1 + len(methods)))
    for change in dict.fromkeys(score.change for score in scores):
        rows = {score.method: score for score in scores if score.change == change}
        cells = [f"{rows['minhash'].similarity:.2f}" if "minhash" in rows else ""]
        for method in methods:
            row = rows[method]
            cell = f"{row.recall:.3f}" + (f" ({row.expected:.3f})" if row.expected is not None else "")
            cells.append(cell + (f", precision {row.precision:.3f}" if row.precision < 1 else ""))
        print(f"| {change} | " + " | ".join(cells) + " |")


def main() -> None:
    cli = ArgumentParser(description=__doc__.partition("\n")[0])
    cli.add_argument("--input", type=Path, default=Path("data/raw/pretrain"))
    cli.add_argument("--texts", type=int, default=1000)
    cli.add_argument("--seed", type=int, default=1)
    cli.add_argument("--figure", type=Path)
    args = cli.parse_args()
    texts = read_texts(args.input, args.texts)
    scores = measure(texts, METHODS, args.seed)
    print(f"{len(texts)} texts of {args.input}, one copy each; in brackets: expected by theory\n")
    print_table(scores)
    if args.figure:
        draw_figure(args.figure, scores)


if __name__ == "__main__":
    main()
