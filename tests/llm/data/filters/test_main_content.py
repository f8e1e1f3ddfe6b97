"""Main content: the article stays whole and in order, everything around it goes; broken pages raise nothing."""

import time

import pytest

from llm.data.document import Document
from llm.data.filters.base import Verdict
from llm.data.filters.main_content import Config, MainContent, main_content

PAGE = """<!DOCTYPE html>
<html lang="en"><head><title>The Ugly Duckling - Tales</title><meta charset="utf-8">
<style>p { color: red }</style><script>var menu = "<p>no paragraph</p>";</script></head>
<body>
<div id="cookie-banner" class="cookie-consent"><p>We use cookies to be better.</p><button>Accept</button></div>
<header class="site-header"><a href="/">Tales for everybody</a>
<nav><ul><li><a href="/">Home</a></li><li><a href="/tales">All tales</a></li></ul></nav></header>
<ul class="menu"><li><a href="/a">Andersen</a></li><li><a href="/g">Grimm</a></li></ul>
<main><article>
<h1>The Ugly   Duckling</h1>
<p>It was so <b>beautiful</b> out in the country, it was summer. The oats were green.</p>
<p title="a > b">If x &lt; y &amp;&amp; z &gt; w, said the hen, write &amp;lt;hen&amp;gt; there.<br>Nobody listened.</p>
<blockquote>He was so big and ugly. His mother looked at him for a long time.</blockquote>
<pre>  keep
    this   as it is</pre>
<script>track("article", 3 < 4);</script>
<ul><li>He swam over the <a href="/lake">lake</a> with the others.</li><li>He dived as well as any.</li></ul>
<p>An unclosed paragraph with an <i>in</i>line element and the last words of the tale.
</article></main>
<aside class="sidebar"><h3>Popular</h3><ul><li><a href="/b">Thumbelina</a></li></ul></aside>
<form action="/newsletter"><label>Newsletter</label><input type="email"><button>Subscribe</button></form>
<footer><p>Copyright 2024. All rights reserved.</p><a href="/privacy">Privacy policy</a></footer>
</body></html>"""
CONTENT = [
    "The Ugly Duckling",
    "It was so beautiful out in the country, it was summer. The oats were green.",
    "If x < y && z > w, said the hen, write &lt;hen&gt; there.",
    "Nobody listened.",
    "He was so big and ugly. His mother looked at him for a long time.",
    "  keep",
    "    this   as it is",
    "  He swam over the lake with the others.",
    "  He dived as well as any.",
    "An unclosed paragraph with an inline element and the last words of the tale.",
]
FORUM = """<html><body><div class="navbar"><a href="/">Forum</a> <a href="/login">Log in</a></div>
<div class="post"><p>My hen does not lay any eggs since Monday. What can I do?</p></div>
<div class="post"><p>Give her more light, and oyster shell.</p></div>
<div class="pagination"><a href="?p=1">1</a> <a href="?p=2">2</a></div></body></html>"""
PLAIN = (
    "<html><body><h2>Recipe</h2><ol><li>Take flour.</li><li>Add water.</li></ol><p>Bake it.</p></body></html>"
)


def judge(text: str, **config: float) -> Verdict:
    document = Document(id="d", source="s", kind="web", licence="l", work="w", text=text)
    return MainContent(Config(**config)).judge(document)  # type: ignore[arg-type]


def lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line]


def test_an_article_stays_whole_and_in_order_and_nothing_else() -> None:
    assert lines(main_content(PAGE)) == CONTENT


@pytest.mark.parametrize(
    ("page", "content"),
    [
        (
            FORUM,
            [
                "My hen does not lay any eggs since Monday. What can I do?",
                "Give her more light, and oyster shell.",
            ],
        ),
        (PLAIN, ["Recipe", "  Take flour.", "  Add water.", "Bake it."]),
    ],
    ids=["forum", "plain"],
)
def test_other_pages(page: str, content: list[str]) -> None:
    assert lines(main_content(page)) == content


def test_a_list_of_links_is_a_menu_and_a_list_of_sentences_is_text() -> None:
    links = "<ul>" + "<li><a href='/x'>Another page</a></li>" * 3 + "</ul>"
    prose = "<ul>" + "<li>A sentence with one <a href='/x'>link</a> in it.</li>" * 3 + "</ul>"
    page = f"<html><body><p>First.</p>{links}<p>Then.</p>{prose}<p>Last.</p></body></html>"
    sentences = ["  A sentence with one link in it."] * 3
    assert lines(main_content(page)) == ["First.", "Then.", *sentences, "Last."]
    assert lines(main_content(page, max_link_frac=0.0)) == ["First.", "Then.", "Last."]
    assert lines(main_content(page, max_link_frac=1.0))[1:4] == ["  Another page"] * 3


def test_lists_within_lists_count_their_links_once_each() -> None:
    inner = "<ul><li><a href='/x'>a link</a></li></ul>"
    page = f"<html><body><p>First.</p><ul><li>A long sentence around it. {inner}</li></ul></body></html>"
    assert "A long sentence around it." in main_content(page)
    assert "a link" not in main_content(page)


@pytest.mark.parametrize(
    "html",
    ["", "<", "<ul>", "<<<>>>", "\x00<p>a", "<p>\ud83d</p>", "<frameset><frame></frameset>", "<html><head>",
     "<table><ul><li>x</ul>", "<template><ul><li>x", "<svg><ul><li>x", "</p></div></body></html>", "<ul><li>" * 90],
)  # fmt: skip
def test_broken_pages_raise_nothing(html: str) -> None:
    assert "<li>" not in main_content(html)


def test_text_that_is_no_markup_is_not_touched() -> None:
    for text in ("if x < y && z > w then stop", "use the <b> tag and the </b> tag", "I <3 you"):
        assert judge(text) == Verdict(keep=True, text=text)


def test_the_filter_says_what_it_did() -> None:
    verdict = judge(PAGE)
    assert (verdict.keep, verdict.edits, verdict.score) == (True, {"extracted": 1}, len(verdict.text))
    assert lines(verdict.text) == CONTENT
    menu = "<html><body><nav><ul><li><a href='/'>Home page of all the tales</a></li></ul></nav></body></html>"
    assert judge(menu).reason == "no_main_content"


def test_a_page_larger_than_the_limit_is_not_parsed() -> None:
    page = "<p>" + "ä" * 30 + "</p><br>"
    assert judge(page, max_bytes=71).keep
    assert judge(page, max_bytes=70).reason == "oversized_markup"


def test_many_lists_cost_linear_time() -> None:
    start = time.process_time()
    assert judge("<ul><li>some <a href=x>thing</a></li></ul>" * 5_000).keep
    assert judge("<ul><li>" * 90 + "<p>word" * 5_000).keep
    assert judge("<div>" * 200_000 + "x").reason == "oversized_markup"
    assert time.process_time() - start < 5


def test_a_share_beyond_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_link_frac \(2\) must lie in"):
        Config(max_link_frac=2)
