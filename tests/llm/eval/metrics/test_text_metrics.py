"""BLEU, ROUGE and distinct-n equal the reference packages; estimates equal their definitions."""

import math
import random

import pytest

from llm.eval.metrics import bleu, rouge
from llm.eval.metrics.distinct import distinct_n
from llm.eval.metrics.uncertainty import jackknife, mean

WORDS = ["the", "a", "cat", "dog,", "sat", "on", "mat.", "U.S.", "3,000", "2-3", "said:", "'no'", "&amp;"]
WORDS += ["it's", "well-known", "<b>", "end-", "x", 'no"', "(the"]


def sentences(count, seed, longest=18, line_breaks=False):
    generator = random.Random(seed)
    out = []
    for _ in range(count):
        chosen = [generator.choice(WORDS) for _ in range(generator.randint(0, longest))]
        out.append(("\n" if line_breaks and generator.random() < 0.7 else " ").join(chosen))
    return out


@pytest.mark.parametrize("seed", range(30))
def test_bleu_equals_sacrebleu(seed):
    import sacrebleu

    hypotheses, first, second = (sentences(6, 3 * seed + i) for i in range(3))
    expected = sacrebleu.corpus_bleu(hypotheses, [first, second]).score
    found = bleu.corpus_bleu(hypotheses, list(zip(first, second, strict=True)))
    assert found == pytest.approx(expected, abs=1e-9)


def test_bleu_edge_cases_equal_sacrebleu():
    import sacrebleu

    pairs = [
        ("the cat", "the cat"),  # no 3-gram at all: 0
        ("the cat sat on the mat", "the cat sat on the mat"),
        ("a b c d e", "a x c y e"),  # only single words match: smoothing
        ("x x x x", "y y y y"),
        ("", "y y y y"),
        ("a b c d", "a b c d e f g h"),  # brevity penalty
        ("a b-\nc d\ne &quot;f&quot; <skipped> &lt;", 'a bc d e "f" <'),
    ]
    for hypothesis, reference in pairs:
        expected = sacrebleu.corpus_bleu([hypothesis], [[reference]]).score
        assert bleu.corpus_bleu([hypothesis], [[reference]]) == pytest.approx(expected, abs=1e-9), hypothesis


def test_tokenisation_equals_13a():
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    reference = Tokenizer13a()
    for text in [*sentences(50, 1), "price: $3.50, 2.5% (of 1,000.) #1 a/b c@d ~`{}|^_ -\n5-6"]:
        assert bleu.tokenize_13a(text) == reference(text).split()


@pytest.mark.parametrize("seed", range(20))
def test_rouge_equals_rouge_score(seed):
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"])
    for hypothesis, reference in zip(
        sentences(5, seed, line_breaks=True), sentences(5, seed + 100, line_breaks=True), strict=True
    ):
        expected = scorer.score(reference, hypothesis)
        found = {
            "rouge1": rouge.rouge_n(hypothesis, reference, 1),
            "rouge2": rouge.rouge_n(hypothesis, reference, 2),
            "rougeL": rouge.rouge_l(hypothesis, reference),
            "rougeLsum": rouge.rouge_lsum(hypothesis, reference),
        }
        for name, score in found.items():
            assert tuple(score) == pytest.approx(tuple(expected[name]), abs=1e-12), name


def test_rouge_of_chinese_needs_a_tokenizer():
    assert rouge.rouge_l("我喜欢猫", "我也喜欢猫").f1 == 0
    assert rouge.rouge_l("我喜欢猫", "我也喜欢猫", tokenize=list).f1 == pytest.approx(2 * 1 * 0.8 / 1.8)


def test_distinct_counts_over_all_texts_together():
    # words: a b a | a b -> 2 of 5 different; pairs: ab ba | ab -> 2 of 3
    assert distinct_n(["a b a", "A, b!"], 1) == pytest.approx(2 / 5)
    assert distinct_n(["a b a", "A, b!"], 2) == pytest.approx(2 / 3)
    assert distinct_n(["a"], 2) == 0


def test_mean_has_the_textbook_error():
    estimate = mean([1.0, 0.0, 0.0, 1.0, 1.0])
    assert estimate.value == 0.6
    assert estimate.se == pytest.approx(math.sqrt(0.3 / 5))
    assert estimate.n == 5
    assert math.isnan(mean([2.0]).se)
    with pytest.raises(ValueError, match="no examples"):
        mean([])


def test_jackknife_of_a_mean_is_the_error_of_the_mean():
    values = [random.Random(i).random() for i in range(17)]
    whole = jackknife(values, lambda items: sum(items) / len(items))
    assert whole.se == pytest.approx(mean(values).se)
    assert whole.value == pytest.approx(mean(values).value)


def test_jackknife_of_corpus_bleu_by_hand():
    texts = [("a b c d e", "a b c d f"), ("a b c d", "a b c d"), ("x y z w", "x y w z")]

    def corpus(items):
        return bleu.corpus_bleu([h for h, _ in items], [[r] for _, r in items])

    parts = [corpus(texts[1:]), corpus([texts[0], texts[2]]), corpus(texts[:2])]
    average = sum(parts) / 3
    expected = math.sqrt(2 / 3 * sum((part - average) ** 2 for part in parts))
    assert jackknife(texts, corpus).se == pytest.approx(expected)
    assert expected > 1
