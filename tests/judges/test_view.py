"""Words, sentences, paragraphs and fences, by hand."""

from __future__ import annotations

import pytest

from lightning_focal.judges.rules.view import ResponseView, split_sentences, split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("Don't, won’t - over-think.", ["Don't", "won’t", "over-think"]),
        ("a_b 3,5 x--y", ["a_b", "3", "5", "x", "y"]),
        ("Élan наука", ["Élan", "наука"]),
    ],
)
def test_words(text, words):
    assert split_words(text) == words


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        ("...", []),
        ("No stop", ["No stop"]),
        ("One. Two! Three? Four… Five", ["One.", "Two!", "Three?", "Four…", "Five"]),
        ("It is 3.5 m. Fine.", ["It is 3.5 m.", "Fine."]),
        ("Ask Mr. Lee, e.g. Now.", ["Ask Mr. Lee, e.g. Now."]),
        ("Milk, etc. are sold. Milk, etc. Then go.", ["Milk, etc. are sold.", "Milk, etc.", "Then go."]),
        ("The answer is no. Then rest.", ["The answer is no.", "Then rest."]),
        ("Wrapped\nline. Next", ["Wrapped\nline.", "Next"]),
        ("# Title\n\nText\n- one\n- two. Three", ["Title", "Text", "one", "two.", "Three"]),
        ("好。很好！", ["好。", "很好！"]),
        ('"Go!" she said. (Then left.) Bye', ['"Go!', "she said.", "(Then left.", "Bye"]),
    ],
)
def test_sentences(text, sentences):
    assert split_sentences(text) == sentences


def test_lines_and_paragraphs():
    view = ResponseView((), "a\nb\n\n \nc\n")
    assert view.lines == ["a", "b", "c"]
    assert view.paragraphs == ["a\nb", "c"]
    assert ResponseView((), "\n").paragraphs == []


def test_fences():
    view = ResponseView((), "```Python title\nx\n```\n~~~\n```\n~~~\n```\nopen")
    assert view.fences == [("python title", "x"), ("", "```")]


def test_occurrences_are_whole_words():
    view = ResponseView((), "Tea, teapot, TEA-time; don’t _tea")
    assert view.occurrences("tea") == 2
    assert view.occurrences("don't") == 1
    assert view.occurrences("tea-time") == 1
    assert ResponseView((), "c++ and c").occurrences("c++") == 1


def test_the_question_is_the_last_user_turn():
    chat = ({"role": "user", "content": "One"}, {"role": "assistant", "content": "Two"}, {"role": "user", "content": "Three"})
    assert ResponseView(chat, "").question == "Three"
    assert ResponseView(({"role": "system", "content": "x"},), "").question == ""


@pytest.mark.parametrize(("text", "empty"), [("", True), (" \n\u200b", True), (".", False), ("🙂", False)])
def test_is_empty(text, empty):
    assert ResponseView((), text).is_empty is empty
