"""wordpiece, wordpiece_fast, wordpiece_teaching: what the laws do not say of them."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from llm.params import ParamsError, from_dict
from llm.tokenizer.algorithms import wordpiece, wordpiece_fast, wordpiece_teaching
from llm.tokenizer.algorithms.base import train_tokenizer
from llm.tokenizer.base import Tokenizer

OWN = [wordpiece_fast, wordpiece_teaching]
ALL = [wordpiece, *OWN]
BASE = 4 + 512  # special tokens and the two alphabets
CORPUS = [
    "Once upon a time there was a duck. There was a lake, and the duck swam there; it couldn't stop!\n\n" * 3,
    "从前有一只小鸭子。小鸭子在湖里游泳，湖水很冷，小鸭子很高兴。" * 2,
    "🙂🙂 🦆🦆🦆 héllo 👩‍👩‍👧 👩‍👩‍👧 aaaa aaa aaaaaa\t\t  x  = 12345;  y=123 \r\n",
]


def learn(
    module: ModuleType, folder: Path, texts: list[str], size: int, least: int, **more: str
) -> Tokenizer:
    config = module.Config(vocab_size=size, min_frequency=least, special_tokens=(), **more)
    return train_tokenizer(module.build(config), texts, folder, "corpus")


@pytest.mark.parametrize("module", ALL)
def test_by_frequency_by_hand(module: ModuleType, tmp_path: Path) -> None:
    # "ab" x 4, "cb" x 2: a,‿b occurs 4 times; c,‿b twice.
    tokenizer = learn(module, tmp_path, ["ab\nab\nab\nab\ncb\ncb"], BASE + 2, 2)
    assert tokenizer.pieces()[BASE:] == ["ab", "cb"]


@pytest.mark.parametrize("module", OWN)
def test_by_likelihood_by_hand(module: ModuleType, tmp_path: Path) -> None:
    # count(ab)/(count(a) count(b)) with a 4, c 2, ‿b 6: a‿b has 4/(4*6) = 1/6, c‿b has 2/(2*6) = 1/6: a tie, the more
    # frequent one wins. "xy", twice: 2/(2*2) = 1/2 comes first, though ab is twice as frequent.
    text = ["ab\nab\nab\nab\ncb\ncb\nxy\nxy"]
    tokenizer = learn(module, tmp_path / "2", text, BASE + 3, 2, score="likelihood")
    assert tokenizer.pieces()[BASE:] == ["xy", "ab", "cb"]
    tokenizer = learn(module, tmp_path / "3", text, BASE + 3, 3, score="likelihood")
    assert tokenizer.pieces()[BASE:] == ["ab"]  # nothing else occurs 3 times


@pytest.mark.parametrize("least", [1, 2, 5])
@pytest.mark.parametrize("score", ["frequency", "likelihood"])
def test_fast_equals_teaching(score: str, least: int, tmp_path: Path) -> None:
    files = []
    for module in OWN:
        learn(module, tmp_path / module.__name__, CORPUS, 650, least, score=score)
        files.append((tmp_path / module.__name__ / "tokenizer.json").read_bytes())
    assert files[0] == files[1]


def test_longest_match_is_not_the_merge_order(tmp_path: Path) -> None:
    # Learned: ab, bc inside (‿bc), never abc. "abc" is ab + ‿c by longest match, whatever was learned first.
    text = ["zbc\n" * 9 + "ab\n" * 4]
    for module in ALL:
        algorithm = module.build(module.Config(vocab_size=BASE + 3, min_frequency=2, special_tokens=()))
        tokenizer = train_tokenizer(algorithm, text, tmp_path / module.__name__, "corpus")
        assert {"‿bc", "ab"} <= set(tokenizer.pieces())
        pieces = [tokenizer.pieces()[index] for index in algorithm.encoder(tokenizer).encode("abc")]
        assert pieces == ["ab", "‿c"]


def test_the_library_learns_the_same_in_every_process() -> None:
    """On this project's own pages: enough words for the trainer's hash tables to differ."""
    code = (
        "from pathlib import Path; from hashlib import sha256\n"
        "from llm.tokenizer.algorithms import wordpiece as w\n"
        "texts = [page.read_text(encoding='utf-8') for page in sorted(Path('docs').rglob('*.md'))[:15]]\n"
        "config = w.Config(vocab_size=1500, min_frequency=2, special_tokens=())\n"
        "print(sha256(w.build(config).train(texts).to_str().encode()).hexdigest())"
    )
    root = Path(__file__).resolve().parents[4]
    hashes = set()
    for seed in ("1", "2", "3"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=root, env=env, check=True, capture_output=True, text=True)
        hashes.add(done.stdout)
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 515}, r"vocab_size \(515\) must hold 2 x 256 bytes and the special tokens: 516"),
        ({"min_frequency": 0}, r"min_frequency \(0\) must be at least 1"),
        ({"score": "entropy"}, "'entropy' is not one of frequency, likelihood"),
    ],
)
@pytest.mark.parametrize("module", OWN)
def test_bad_configs(module: ModuleType, changes: dict[str, object], message: str) -> None:
    data = {"vocab_size": 600, "min_frequency": 2, "special_tokens": [], **changes}
    with pytest.raises(ParamsError, match=message):
        from_dict(module.Config, data, "tokenizer")


def test_the_librarys_kind_has_no_score() -> None:
    data = {"vocab_size": 600, "min_frequency": 2, "special_tokens": [], "score": "likelihood"}
    with pytest.raises(ParamsError, match="tokenizer.score: unknown key"):
        from_dict(wordpiece.Config, data, "tokenizer")
