"""Words, sentences, paragraphs and fences, by hand."""

from __future__ import annotations

import pytest

from lightning_focal.judges.rules.view import ResponseView, split_sentences, split_words


def test_words():
    assert split_words("Don't, won’t - over-think a_b 3,5 x--y Élan наука") == [
        *("Don't", "won’t", "over-think", "a_b", "3", "5", "x", "y", "Élan", "наука")
    ]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
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


def test_lines_paragraphs_and_fences():
    view = ResponseView((), "a\nb\n\n \nc\n")
    assert (view.lines, view.paragraphs) == (["a", "b", "c"], ["a\nb", "c"])
    assert ResponseView((), "\n").paragraphs == []
    view = ResponseView((), "```Python title\nx\n```\n~~~\n```\n~~~\n```\nopen")
    assert view.fences == [("python title", "x"), ("", "```")]


def test_occurrences_are_whole_words():
    view = ResponseView((), "Tea, teapot, TEA-time; don’t _tea c++ and c")
    assert [view.occurrences(phrase) for phrase in ("tea", "don't", "tea-time", "c++")] == [2, 1, 1, 1]


def test_the_prompt_is_the_last_user_turn():
    chat = [
        {"role": role, "content": text} for role, text in (("user", "One"), ("assistant", "Two"), ("user", "3"), ("system", ""))
    ]
    assert (ResponseView(chat, "").prompt_words, ResponseView(chat[3:], "").prompt_words) == (("3",), ())
