"""Where a thought ends and the answer begins, in every way that models and their templates mark it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_focal.thoughts import HARMONY, MARKS, answer_places, closing_of, opening_at_the_end, split_thought
from tests.growth import is_linear

FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"
ANALYSIS = "<|channel|>analysis<|message|>"
CODE = "Code:\n```xml\n<think>\nx\n</think>\n```\nend"


def same(text):
    """A response that is an answer as it stands."""
    return (text, None, text)


FINISHED = [
    # marks of every kind
    *((f"{opened}\nhm\n{close}\n\nDrink.", "hm", "Drink.") for opened, close in MARKS.items()), ("<think>\n\n</think>\n\n", "", ""),
    ("<think>a</think>", "a", ""), ("<think>a</thinking>b</think>c", "a</thinking>b", "c"),
    # the opening mark stood in the prompt
    ("4 + 4, so.</think>8", "4 + 4, so.", "8"), ("okay\n</think>\n\n8", "okay", "8"), ("okay\n[/THINK]8", "okay", "8"),
    ("\n</think>\n\n8", "", "8"), ("okay\n</think>", "okay", ""), ("4 and 4. </think> It is 8.", "4 and 4.", "It is 8."),
    ("my reason to </think> this is it", "my reason to", "this is it"), ("a [/THINK] b", "a", "b"), ("hm\n<channel|>8", "hm", "8"),
    # several
    ("<think>a</think>x<think>b</think>y", "a\n\nb", "xy"), ("<think>a</think>Now <think>b</think> 8", "a\n\nb", "Now 8"),
    ("<think>a</think>\n<think>b</think>\ny", "a\n\nb", "y"), ("a</think>x\n<think>b</think>\ny", "a\n\nb", "x\ny"),
    ("<think>a <think>b</think> c</think>y", "a <think>b\n\nc", "y"), ("<think>a <think>b</think> c</think>", "a <think>b\n\nc", ""),
    ("<think>a</think>draft\n</think>\ny", "a\n\ndraft", "y"), ("<think>a</think>y\n</think>", "a", "y\n"),
    # marks that a thought speaks of
    ("<think>of the <think> tag</think>It is.", "of the <think> tag", "It is."),
    ("<think>it ends with `</think>`. ok</think>c", "it ends with `</think>`. ok", "c"),
    ("Let me write\n```python\ncode\n</think>\nAnswer", "Let me write\n```python\ncode", "Answer"),
    ("<think>\n```python\ncode\n</think>\n```python\nans\n```", "```python\ncode", "```python\nans\n```"),
    # marks that an answer speaks of
    ("<think>a</think>Use `</think>` and `<think>`.", "a", "Use `</think>` and `<think>`."), (f"<think>a</think>{CODE}", "a", CODE),
    ('<think>a</think>Say "<think>x</think>" or “</think>”.', "a", 'Say "<think>x</think>" or “</think>”.'),
    ("<think>a</think>The </think> tag, not <think>, ends it.", "a", "The </think> tag, not <think>, ends it."), same(CODE),
    same(" Models write `<think>` first.\n"), same("Write <think> first"), same("Tags:\n~~~\n<thought>\n~~~\n"),
    same("[think] to himself [/think]"),
    *(same(f"{mark.swapcase()}hm{close.swapcase()}8") for mark, close in MARKS.items()),  # no model spells them so
    same("The </think> tag ends it."), same("In harmony `<|channel|>analysis<|message|>` begins it."), same(""),
    # harmony
    (f"{ANALYSIS}hm{FINAL}Hi<|return|>", "hm", "Hi"), (f"<|start|>assistant{ANALYSIS}hm{FINAL}Hi", "hm", "Hi"),
    (f"hm{FINAL}Hi", "hm", "Hi"), ("analysisHm.assistantfinalHi", "Hm.", "Hi"),
    ("analysisHm.assistantcommentaryWait.assistantfinalHi", "Hm.", "Hi"), same("analysis of the assistantfinal"),
    ("<|channel|>final<|message|>Hi", None, "Hi"),
    ("<|channel|>final<|message|>End it by `<|end|>` or <|end|> itself.", None, "End it by `<|end|>` or <|end|> itself."),
    (f'He says "hm"{FINAL}Hi', 'He says "hm"', "Hi"),
    (f"{ANALYSIS}hm<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{{}}<|call|>", "hm\n\n{}", ""),
    (f"{ANALYSIS}a<|end|>{ANALYSIS}b{FINAL}c", "a\n\nb", "c"),
]  # fmt: skip
UNFINISHED = [
    ("<think>hm", "hm"), ("<think>", ""), ("[THINK]a", "a"), ("<think>a</think>b\n<think>c", "a\n\nc"),
    ("<think>a</thinking>b", "a</thinking>b"), (f"{ANALYSIS}hm", "hm"), (f"{ANALYSIS}a<|end|>{ANALYSIS}b", "a\n\nb"),
    ("<|channel|>analysis", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "thought", "answer", "finished"), [*((*row, True) for row in FINISHED), *((t, c, "", False) for t, c in UNFINISHED)]
)
def test_parts(text, thought, answer, finished):
    assert split_thought(text) == (thought, answer, finished)
    places, ended = answer_places(text)
    assert ended is finished
    assert "".join(text[start:stop] for start, stop in places).split() == answer.split()


def test_ends_of_prompts():
    for mark in [*MARKS, ANALYSIS]:
        opening = opening_at_the_end(f"user: <think>?\nassistant: {mark}\n")
        assert opening == f"{mark}\n"
        assert split_thought(f"{opening}a{closing_of(opening)}")[:2] == ("a", "")
        assert opening_at_the_end(f"{mark}\n\n{closing_of(mark)}\n\n") == ""
    assert opening_at_the_end("assistant\n") == opening_at_the_end("") == ""


WORDS = st.sampled_from([*MARKS, *MARKS.values(), *HARMONY, "analysis", "final", "a", " ", "\n", "`", "```", '"', "."])


@given(st.lists(WORDS, max_size=30).map("".join))
def test_a_part_is_text_of_the_response_and_nothing_twice(text):
    thought, answer, finished = split_thought(text)
    places, ended = answer_places(text)
    assert ended is finished
    assert all(start < stop for start, stop in places)
    assert all(one[1] <= other[0] for one, other in pairwise(places))
    assert finished or not answer
    assert len(answer) + len(thought or "") <= len(text)
    assert thought is not None or finished


@given(st.text())
def test_without_marks_a_response_is_its_answer(text):
    if not any(mark in text for mark in ("<", "[", "◁", "assistantfinal")):
        assert split_thought(text) == (None, text, True)


PIECES = [
    "<think>", "x</think>", "a <think> b", "```\n</think>", "<|end|>", f"{ANALYSIS}a<|end|>", '"</think> ', "\n<think>\n```",
]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_long_responses_take_linear_time(piece):
    assert is_linear(lambda size: split_thought(piece * (size // len(piece))), 250_000)
