"""sentences: where the sentences of a text end, by rules for English and Chinese.

Equations   none; the rules are listed in docs/data/sentences.md
Source      the usual rule-based splitters (Palmer & Hearst 1997 name the cases); abbreviations by hand
Cost        a few regular expressions over the text
Differs     from learned splitters (Punkt): nothing is learned, so equal texts give equal sentences
"""

import re

# A full stop after one of these ends no sentence. Lower case; inner stops as written.
_TITLES = ("mr", "mrs", "ms", "messrs", "mme", "dr", "prof", "rev", "hon", "st", "sr", "jr")
_RANKS = ("capt", "col", "gen", "lt", "sgt", "maj", "gov", "pres", "sen", "rep")
_MONTHS = ("jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec")
_PRINT = ("vol", "vols", "nos", "pp", "fig", "figs", "eds", "trans", "cf", "al", "vs", "viz", "approx")
_OTHERS = ("co", "corp", "inc", "ltd", "bros", "dept", "univ", "assn", "ave", "blvd")
_STOPPED = ("e.g", "i.e", "a.m", "p.m", "u.s", "u.k")
ABBREVIATIONS = frozenset(_TITLES + _RANKS + _MONTHS + _PRINT + _OTHERS + _STOPPED)

_STOP = re.compile(r"([.!?…]+)[\"'”’)\]]*([^\S\n]+)(?=\S)")
_LINE = re.compile(r"\s*\n\s*")
_WORD_BEFORE = re.compile(r"[A-Za-z][A-Za-z.]*$")
_CHINESE = re.compile(r"(?:[。！？；]+|…+(?=[\u3400-\u9fff“‘「『]))[”’」』\"）]*")


def sentence_breaks(text: str) -> list[tuple[int, int]]:
    """Where one sentence ends and the next begins, as spans of the white space between them, in order.

    A Chinese sentence needs no space after it: its span is empty.
    """
    found = [match.span(2) for match in _STOP.finditer(text) if _ends(text, match)]
    found += [match.span() for match in _LINE.finditer(text)]
    found += [(match.end(), match.end()) for match in _CHINESE.finditer(text)]
    return sorted(found)


def _ends(text: str, match: re.Match[str]) -> bool:
    """Whether a stop followed by a space ends the sentence."""
    if text[match.end()].islower():  # "What?" said he
        return False
    if match[1] != ".":
        return True
    word = _WORD_BEFORE.search(text, max(0, match.start() - 20), match.start())
    if word is None:
        return True
    initial = len(word[0]) == 1 and word[0].isupper() and word[0] != "I"  # J. Smith
    return not initial and word[0].lower() not in ABBREVIATIONS
