"""Books: what the printed page did to the text is undone, and titles become works and sections."""

import pytest

from llm.data.books import Layout, decode, split_book

TALES = Layout(work_gap=3)


def parts(text: str, layout: Layout = TALES) -> list[tuple[str, str, str]]:
    return [tuple(part) for part in split_book(text, title="The Book", layout=layout)]


def test_utf8_with_mark_and_crlf_becomes_plain_text() -> None:
    assert decode(b"\xef\xbb\xbfCaf\xc3\xa9\r\nopen\rnow") == "Café\nopen\nnow"


def test_latin1_is_read_where_utf8_fails() -> None:
    assert decode(b"Caf\xe9") == "Café"


def test_printed_lines_are_joined_and_paragraphs_kept() -> None:
    [(_, _, text)] = parts("He went\nto the  town\n\nand came\nback.")
    assert text == "He went to the town\n\nand came back."


def test_a_line_that_ends_with_a_dash_is_joined_without_a_space() -> None:
    [(_, _, text)] = parts("you'll find some\nfriend--\nsome help")
    assert text == "you'll find some friend--some help"


def test_verse_keeps_its_lines_and_an_indented_first_line_is_prose() -> None:
    [(_, _, text)] = parts("   Roses are red,\n   violets blue.\n\n   He said\nso.")
    assert text == "Roses are red,\nviolets blue.\n\nHe said so."


def test_markup_of_plain_text_books_is_removed() -> None:
    raw = "[Tales by Somebody 1918]\n\nA _very_ good[1] day.\n\n[Illustration: a hen]\n\n * * *\n\nThe end came."
    [(_, _, text)] = parts(raw)
    assert text == "A very good day.\n\nThe end came."


def test_a_title_after_a_wide_gap_starts_a_work_and_after_a_narrow_one_a_section() -> None:
    raw = "THE FIR TREE\n\nA tree.\n\n\n\nTHE ICE MAIDEN.\n\nI. LITTLE RUDY\n\nRudy.\n\n\nTHE UNCLE\n\nUncle."
    assert parts(raw) == [
        ("The Fir Tree", "", "A tree."),
        ("The Ice Maiden", "Little Rudy", "Rudy."),
        ("The Ice Maiden", "The Uncle", "Uncle."),
    ]


def test_text_before_the_first_section_of_a_work_is_its_opening() -> None:
    raw = "THE DREAM\n\nLook!\n\n\nMONDAY\n\nListen."
    assert [part[:2] for part in parts(raw)] == [("The Dream", "Opening"), ("The Dream", "Monday")]


def test_a_novel_is_one_work_with_chapters() -> None:
    raw = "VOLUME I\n\nCHAPTER I. Down the Rabbit-Hole\n\nAlice.\n\n\n\n\nChapter 2\n\nTears."
    assert parts(raw, Layout()) == [
        ("The Book", "Down the Rabbit-Hole", "Alice."),
        ("The Book", "Chapter 2", "Tears."),
    ]


def test_a_subtitle_goes_with_its_heading_but_capitals_inside_a_story_stay() -> None:
    raw = "THE OLD BELL\n\n(WRITTEN FOR THE ALBUM)\n\nIt rang.\n\nDING DONG\n\nAgain."
    assert parts(raw) == [("The Old Bell", "", "It rang.\n\nDING DONG\n\nAgain.")]


@pytest.mark.parametrize(
    "line",
    [
        '"DEAR MARY, NANCY, AND LITTLE PEG,--',  # a letter: quoted capitals
        "I was there.",  # a sentence that starts with a roman numeral
        "Part of it was true.",
        "NO SUCH THING EVER HAPPENED, AND IF IT DID THEN NOBODY WAS THERE TO SEE IT OR TO TELL ABOUT IT NOW",
    ],
)
def test_lines_that_only_look_like_headings_stay_text(line: str) -> None:
    raw = f"A TALE\n\nOnce.\n\n\n\n{line}\n\nThen."
    assert parts(raw) == [("A Tale", "", f"Once.\n\n{line}\n\nThen.")]


def test_a_title_the_rule_cannot_see_is_named_in_the_layout() -> None:
    raw = 'FORGIVE.\n\nOne.\n\n "WASTE NOT, WANT NOT."\n\nTwo.'
    layout = Layout(work_gap=3, titles=('"WASTE NOT, WANT NOT."',))
    assert [part[0] for part in parts(raw, layout)] == ["Forgive", "Waste Not, Want Not"]


def test_a_heading_without_text_makes_no_part() -> None:
    assert parts("A TALE\n\nOnce.\n\n\n\nTHE END\n") == [("A Tale", "", "Once.")]


def test_titles_keep_roman_numerals_and_small_words() -> None:
    raw = "THE BELL-DEEP OF HENRY VIII AND THE SEA\n\nOnce."
    assert parts(raw)[0][0] == "The Bell-Deep of Henry VIII and the Sea"
