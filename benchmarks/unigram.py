"""unigram: the own trainer beside the `tokenizers` library's and SentencePiece, in time and in what is learned.

    python -m benchmarks.unigram --input data/clean

All three learn from the same words: those of the corpus without line ends, tabs and characters beyond ASCII, for
a file of words cannot hold the first two and SentencePiece writes a space as a mark. One thread. Two own rows:
candidates counted by the frequency of their words (what the project does), and once for each distinct word (what
the others do). Last, both ways of the project to a vocabulary, from texts in memory: cutting and counting words
included, the two in turn.
"""

import io
import json
import os
import statistics
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterable
from pathlib import Path

import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from llm.data.document import read_documents
from llm.tokenizer import unigram_training
from llm.tokenizer.algorithms import unigram
from llm.tokenizer.byte_level import WORD, count_words
from llm.tokenizer.lattice import Pieces, forward, lattice, viterbi
from llm.tokenizer.unigram import Learning

Counts = dict[str, int]


def main() -> None:
    cli = ArgumentParser(description=__doc__)
    cli.add_argument("--input", type=Path, default=Path("data/clean"))
    cli.add_argument("--pieces", type=int, default=3836)
    cli.add_argument("--documents", type=int, default=None)
    args = cli.parse_args()

    os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    texts = [document.text for document in read_documents(args.input / "train.jsonl")][: args.documents]
    counts = {w: n for w, n in count_words(texts).items() if w.isascii() and not set(w) & set("\n\r\t")}
    print(f"{len(counts)} distinct words, {args.pieces} pieces, CPU seconds of one thread")
    print("| trainer | seconds | log-likelihood per word | tokens per word | pieces shared with the first |")
    print("|---|---|---|---|---|")
    first: Pieces = {}
    for name, train in TRAINERS.items():
        t0 = time.process_time()
        pieces = train(counts, args.pieces)
        seconds = time.process_time() - t0
        first = first or pieces
        likelihood, n_tokens = quality(pieces, counts)
        shared = len(set(pieces) & set(first)) / len(set(pieces) | set(first))
        print(f"| {name} | {seconds:.2f} | {likelihood:.4f} | {n_tokens:.4f} | {shared:.3f} |", flush=True)
    from_texts(texts, args.pieces, rounds=3)


def from_texts(texts: list[str], size: int, rounds: int) -> None:
    config = unigram.Config(vocab_size=size + 260, min_frequency=2, special_tokens=())
    seconds: list[tuple[float, float]] = []
    for _ in range(rounds):
        stamps = [time.process_time()]
        unigram.build(config).train(texts)
        stamps.append(time.process_time())
        library_vocabulary(texts, size)
        stamps.append(time.process_time())
        seconds.append((stamps[1] - stamps[0], stamps[2] - stamps[1]))
    own_s, library_s = (statistics.median(column) for column in zip(*seconds, strict=True))
    ratio = statistics.median(own / library for own, library in seconds)
    print(f"from texts: own {own_s:.2f} s, tokenizers {library_s:.2f} s, median ratio {ratio:.2f}")


def own(counts: Counts, size: int) -> Pieces:
    return unigram_training.learn(counts, size, 2, Learning())


def own_by_distinct_words(counts: Counts, size: int) -> Pieces:
    return unigram_training.learn(counts, size, 2, Learning(), dict.fromkeys(counts, 1))


def by_tokenizers(counts: Counts, size: int) -> Pieces:
    """Words in batches, one to a text: the library cuts each again and counts them, which is in its time."""
    return library_vocabulary(([word] * count for word, count in counts.items()), size)


def library_vocabulary(texts: Iterable[str] | Iterable[list[str]], size: int) -> Pieces:
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(WORD.pattern), behavior="isolated")
    backend.train_from_iterator(texts, trainers.UnigramTrainer(vocab_size=size, show_progress=False))
    return dict(json.loads(backend.to_str())["model"]["vocab"])


def by_sentencepiece(counts: Counts, size: int) -> Pieces:
    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        words = Path(folder) / "words.tsv"
        words.write_text("".join(f"{word}\t{count}\n" for word, count in counts.items()))
        sentencepiece.SentencePieceTrainer.train(
            input=str(words),
            input_format="tsv",
            model_writer=model,
            model_type="unigram",
            vocab_size=size + 3,
            character_coverage=1.0,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            num_threads=1,
            minloglevel=2,
        )
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = range(3, trained.get_piece_size())  # after <unk>, <s>, </s>
    return {trained.id_to_piece(index).replace("▁", " "): trained.get_score(index) for index in pieces}


TRAINERS: dict[str, Callable[[Counts, int], Pieces]] = {
    "own": own,
    "own, by distinct words": own_by_distinct_words,
    "tokenizers": by_tokenizers,
    "SentencePiece": by_sentencepiece,
}


def quality(pieces: Pieces, counts: Counts) -> tuple[float, float]:
    """Log-likelihood and tokens of the best path, both per word of the corpus."""
    longest, n_words = max(map(len, pieces)), sum(counts.values())
    likelihood = sum(n * forward(w, lattice(w, pieces, longest))[-1] for w, n in counts.items())
    return likelihood / n_words, sum(
        n * len(viterbi(w, pieces, longest)) for w, n in counts.items()
    ) / n_words


if __name__ == "__main__":
    main()
