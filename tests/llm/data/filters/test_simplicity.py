"""The simple vocabulary is the corpus' own, ties are broken by spelling."""

import pytest

from llm.data.document import Document
from llm.data.filters.simplicity import Config, Simplicity


def document(text: str) -> Document:
    return Document(id="d", source="s", kind="k", licence="l", work="w", text=text)


def fitted(*texts: str, vocabulary: int, min_share: float = 0.5) -> Simplicity:
    filter_ = Simplicity(Config(vocabulary=vocabulary, min_share=min_share))
    filter_.fit([document(text) for text in texts])
    return filter_


def test_the_most_frequent_words_are_simple() -> None:
    filter_ = fitted("the cat the dog", "The CAT; a bird", vocabulary=2)
    assert filter_.simple == {"the", "cat"}


def test_ties_go_by_spelling_whatever_the_order() -> None:
    assert fitted("c b a", vocabulary=2).simple == {"a", "b"}
    assert fitted("a b", "c", vocabulary=2).simple == {"a", "b"}


def test_the_score_is_the_share_of_simple_words() -> None:
    filter_ = fitted("the the cat cat x", vocabulary=2, min_share=0.75)
    kept, dropped = filter_.judge(document("the cat, the quux")), filter_.judge(document("the cat quux"))
    assert (kept.keep, kept.score) == (True, 0.75)
    assert (dropped.keep, dropped.score) == (False, 2 / 3)


def test_fitting_again_forgets_the_first_corpus() -> None:
    filter_ = fitted("old old old", vocabulary=1)
    filter_.fit([document("new")])
    assert filter_.simple == {"new"}


def test_a_text_without_words_is_not_simple() -> None:
    assert fitted("a", vocabulary=1).judge(document("...")).reason == "not_simple"


@pytest.mark.parametrize("bad", [{"vocabulary": 0}, {"min_share": 1.5}])
def test_a_config_out_of_range_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="vocabulary must be positive"):
        Config(**bad)  # type: ignore[arg-type]
