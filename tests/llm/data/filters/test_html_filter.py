"""Markup to text: what a reader sees stays, in order; the rest goes; ordinary text is not touched."""

import time

import pytest

from llm.data.document import Document
from llm.data.filters.base import Verdict
from llm.data.filters.html import Config, Html, to_text


def judge(text: str, **config: float) -> Verdict:
    document = Document(id="d", source="s", kind="web", licence="l", work="w", text=text)
    return Html(Config(**config)).judge(document)  # type: ignore[arg-type]


PAGE = """<!DOCTYPE html>
<html><head><title>Shop</title><style>p { color: red }</style></head>
<body><nav><a href="/">Home</a></nav><header>Top</header>
<h1>The   Ugly
Duckling</h1>
<p>It was <b>so</b> beautiful, x &lt; y &amp;amp; <i>z</i>.<br>Second line</p>
<script>alert("<p>no</p>")</script><noscript>Turn it on</noscript>
<pre>  keep
    this</pre>
<table><tr><th>Name</th> <th>Age</th></tr><tr><td>Hen</td><td>3</td></tr></table>
<!-- a comment --><ul><li>one<li>two</ul><aside>Ads</aside><form><input><button>Buy</button></form>
<footer>&copy; nobody</footer></body></html>"""


def test_a_whole_page() -> None:
    assert to_text(PAGE) == (
        "The Ugly Duckling\nIt was so beautiful, x < y &amp; z.\nSecond line\n  keep\n    this\n"
        "Name\tAge\nHen\t3\none\ntwo"
    )


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p><b>world</b>.</p>", "world."),  # inline tags split no words
        ("<p>a</p><p>b</p>", "a\nb"),
        ("one<br><br><br>two", "one\ntwo"),
        ('<p title="a > b">c</p>', "c"),
        ("<div><div><div>deep</div></div></div>", "deep"),
        ("<p>unclosed <b>bold<p>next", "unclosed bold\nnext"),
        ("&amp;lt;b&amp;gt;", "&lt;b&gt;"),  # entities are decoded once
        ("<pre>a\n\n  b</pre>c", "a\n\n  b\nc"),
        ("<p> spaced   out </p>", "spaced out"),
        ("<table><tr><td></td><td>x</td></tr></table>", "x"),
        ("", ""),
        ("<<<>>>", "<<<>>>"),
    ],
)
def test_small_pages(html: str, text: str) -> None:
    assert to_text(html) == text


@pytest.mark.parametrize(
    "text",
    [
        "if x < y && z > w then stop",
        "I <3 you, a<b and b>c",
        "use the <b> tag and the </b> tag",  # two tags are talk about tags
        "vector<int> v; map<string, vector<int>> m; set<int> s; list<a1> t;",
        "A: <laughs> B: <cries> A: <shrugs> B: <leaves>",
        "Tom &amp; Jerry &lt;3",
        "<EMAIL> <PHONE> <IP> <CARD>",
    ],
)
def test_text_that_is_no_markup_is_not_touched(text: str) -> None:
    assert judge(text) == Verdict(keep=True, text=text)


def test_three_tags_make_markup() -> None:
    verdict = judge("a <b>c</b> d<br>e")
    assert (verdict.text, verdict.edits) == ("a c d\ne", {"stripped": 1})


def test_a_doctype_alone_makes_markup() -> None:
    assert judge("<!doctype html>just text").text == "just text"


def test_a_page_larger_than_the_limit_is_not_parsed() -> None:
    page = "<p>" + "ä" * 20 + "</p><br>"
    assert judge(page, max_bytes=51).keep
    assert judge(page, max_bytes=50).reason == "oversized_markup"


def test_absurd_nesting_costs_no_time() -> None:
    start = time.process_time()
    assert judge("<div>" * 200_000 + "x").reason == "oversized_markup"
    assert judge("<p>word" * 20_000).keep  # a paragraph ends the one before
    assert time.process_time() - start < 5


def test_score_is_the_share_that_remains() -> None:
    assert judge("<p>ab</p><br><br>").score == 2 / 17
