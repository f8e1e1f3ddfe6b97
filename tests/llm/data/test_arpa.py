"""ARPA: our file read by our reader and by KenLM gives the scores of the model it was written from."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from llm.data.arpa import read_arpa, write_arpa
from llm.data.kneser_ney import KneserNey, fit, rooms

GOLDEN = Path(__file__).parents[2] / "golden" / "kenlm.json"
TEXT = [
    "the old hen sat in the sun",
    "the old hen sat in the yard",
    "the cat sat in the sun and the hen sat in the yard",
    "the cat and the hen and the duck went to the lake",
    "the duck went to the yard and the cat went to the sun",
    "a duck is a duck and a hen is a hen",
    "the old cat said to the old hen : sit",
    "the hen said to the cat : go to the lake",
]
LINES = [
    "the old hen sat in the sun",
    "the old duck sat in the lake",
    "a cat is a cat",
    "sun the in cat lake said :",
    "the wolf sat in the yard",
    "wolf wolf",
    "",
]
WORDS = ["<boundary>", "<unk>", *sorted({word for line in TEXT for word in line.split()})]
IDS = {word: i for i, word in enumerate(WORDS)}


def encoded(lines: list[str]) -> np.ndarray:
    return np.array([0, *(i for line in lines for i in [*(IDS.get(word, 1) for word in line.split()), 0])])


def model(min_counts: tuple[int, ...] = ()) -> KneserNey:
    ids = encoded(TEXT)
    return fit(ids, rooms(ids, 0), order=4, n_words=len(WORDS), boundary=0, min_counts=min_counts)


def log10(fitted: KneserNey, line: str) -> float:
    ids = encoded([line])
    return float(fitted.logp(ids, rooms(ids, 0)).sum()) / math.log(10)


@pytest.mark.parametrize("min_counts", [(), (1, 1, 2, 2)], ids=["all", "pruned"])
def test_our_reader_scores_like_the_model(tmp_path: Path, min_counts: tuple[int, ...]) -> None:
    fitted = model(min_counts)
    write_arpa(tmp_path / "model.arpa", fitted, WORDS, boundary=0)
    arpa = read_arpa(tmp_path / "model.arpa")
    for line in LINES:
        assert arpa.score(line.split()) == pytest.approx(log10(fitted, line), abs=1e-6)


@pytest.mark.parametrize("which", ["all", "pruned"])
def test_kenlm_scores_like_the_model(which: str) -> None:
    """Golden numbers of kenlm 0.3.0; `python tests/llm/data/test_arpa.py` with kenlm installed makes them anew."""
    fitted = model(() if which == "all" else (1, 1, 2, 2))
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))[which]
    assert set(golden) == set(LINES)
    for line, score in golden.items():
        assert log10(fitted, line) == pytest.approx(score, abs=1e-5)


def test_the_file_is_laid_out_as_the_format_says(tmp_path: Path) -> None:
    ids = np.array([0, 2, 3, 0])
    small = fit(ids, rooms(ids, 0), order=2, n_words=4, boundary=0, discounts=[(0.5, 0.5, 0.5)] * 2)
    write_arpa(tmp_path / "small.arpa", small, ["<boundary>", "<unk>", "old", "hen"], boundary=0)
    lines = (tmp_path / "small.arpa").read_text(encoding="utf-8").splitlines()
    assert lines[:5] == ["\\data\\", "ngram 1=5", "ngram 2=3", "", "\\1-grams:"]
    assert [line.split("\t")[1] for line in lines[5:10]] == ["<s>", "</s>", "<unk>", "old", "hen"]
    assert [line.split("\t")[1] for line in lines[12:15]] == ["<s> old", "old hen", "hen </s>"]
    assert lines[15:] == ["", "\\end\\"]


def test_what_is_no_arpa_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.arpa"
    path.write_text("hello\n")
    with pytest.raises(ValueError, match="no n-grams"):
        read_arpa(path)
    path.write_text("\\2-grams:\n-1.0\tonly\n")
    with pytest.raises(ValueError, match=r"bad.arpa:2: not an n-gram of 2 words"):
        read_arpa(path)


def _make_golden() -> None:
    import tempfile

    import kenlm

    made = {}
    for which, min_counts in (("all", ()), ("pruned", (1, 1, 2, 2))):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.arpa"
            write_arpa(path, model(min_counts), WORDS, boundary=0)
            oracle = kenlm.Model(str(path))
        made[which] = {line: oracle.score(line, bos=True, eos=True) for line in LINES}
    GOLDEN.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _make_golden()
