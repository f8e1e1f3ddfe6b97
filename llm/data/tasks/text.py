"""text: paragraphs, sentences, words and content words of plain English prose, by rules a reader can check."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator

_STOP = """
a about above after again against all almost alone along already also although always am among an and
another any anything are around as asked at away back be became because become been before began behind
being below between both but by called came can cannot come could cried did do does done down during each
either else enough even ever every everything few first for found from gave get give go goes going gone good
got great had half has have having he hear heard her here hers herself him himself his how however i if in
indeed into is it its itself just keep kept knew know known last least left less let like little long look
looked made make many may me might more most much must my myself near nearly need never next no none nor not
nothing now of off often oh old on once one only or other others ought our out over own perhaps put quite
rather really replied round said same saw say says second see seem seemed seen several shall she should
since so some something soon still stood such take taken tell than that the their them themselves then there
therefore these they thing things think this those though thought three through till to together told too
took two under until up upon us used very want was way we well went were what when where whether which while
who whole whom whose why will with within without would yes yet you young your yourself
"""
STOP_WORDS = frozenset(_STOP.split())
_DETERMINERS = frozenset(
    ["a", "an", "the", "his", "her", "its", "my", "our", "your", "their", "this", "that", "each"]
)
_TOKEN = re.compile(r"[A-Za-z]+(?:'[a-z]+)?|[.,;:!?\"]")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[\"'(]?[A-Z])")


def paragraphs(text: str) -> list[str]:
    """Blocks between blank lines; where there is only one block, its lines."""
    blocks = [block.strip() for block in re.split(r"\n\s*\n", text) if block.strip()]
    return blocks if len(blocks) > 1 else [line.strip() for line in text.split("\n") if line.strip()]


def sentences(text: str) -> list[str]:
    """Cut after . ! ? (and closing quotes) before a capital letter; the pieces joined by spaces are the text."""
    pieces, start = [], 0
    text = " ".join(text.split())
    for match in _SENTENCE_END.finditer(text):
        pieces.append(text[start : match.end()].strip())
        start = match.end()
    return [*pieces, text[start:]] if text[start:] else pieces


def passages(text: str, min_chars: int, max_chars: int) -> list[list[str]]:
    """Runs of neighbouring paragraphs of `min_chars` to `max_chars`; a paragraph of another size ends a run.

    A text of one paragraph is cut into runs of whole sentences of at least `min_chars` instead, so that
    short stories printed without breaks have passages too.
    """
    pieces = paragraphs(text)
    if len(pieces) == 1:
        pieces = list(_grouped(sentences(text), min_chars))
    runs: list[list[str]] = [[]]
    for piece in pieces:
        if min_chars <= len(piece) <= max_chars:
            runs[-1].append(piece)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _grouped(pieces: list[str], min_chars: int) -> Iterator[str]:
    group = ""
    for piece in pieces:
        group = f"{group} {piece}".strip()
        if len(group) >= min_chars:
            yield group
            group = ""


def is_whole(text: str) -> bool:
    """True when the text ends where a sentence ends; printed prose also breaks off at `:` and `--`."""
    return text.rstrip("\"')")[-1:] in (".", "!", "?")


def words(text: str) -> list[str]:
    """Lower-case words, apostrophes kept."""
    return [token.lower() for token in _TOKEN.findall(text) if token[0].isalpha()]


def content_words(texts: Iterable[str], *, min_rank: int, max_rank: int) -> list[str]:
    """Noun-like words between two frequency ranks, most frequent first.

    A word is taken for a noun when at least a tenth of its uses stand after a determiner and before a
    stop word or a punctuation mark ("the king said", "a door."): no tagger, no dictionary, one count.
    """
    total: Counter[str] = Counter()
    nounish: Counter[str] = Counter()
    for text in texts:
        tokens = [token.lower() for token in _TOKEN.findall(text)]
        total.update(token for token in tokens if token.isalpha())
        for before, word, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
            if before in _DETERMINERS and (after in STOP_WORDS or not after[0].isalpha()):
                nounish[word] += 1
    ranked = sorted(total, key=lambda word: (-total[word], word))[min_rank:max_rank]
    return [
        word
        for word in ranked
        if len(word) >= 3
        and word not in STOP_WORDS
        and nounish[word] * 10 >= total[word]
        and nounish[word] >= 2
    ]
