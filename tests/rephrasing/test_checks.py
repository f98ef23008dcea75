"""Which replies are taken, and what is asked."""

import pytest

from lightning_focal.rephrasing import INSTRUCTION, Checks, read_instruction
from lightning_focal.rephrasing.checks import REASONS
from lightning_focal.servers import ChatReply

QUESTION = "Tom has 3 apples and buys 4. How many has he?"
GOOD = "Ann owns 3 plums and finds 4 more. How many are hers?"


def judge(text, finish_reason="stop", **checks):
    return Checks(**checks).judge(QUESTION, ChatReply(text, finish_reason))


@pytest.mark.parametrize(("text", "finish_reason"), [
    (f"Sure!\n<rephrased>\n{GOOD}\n</rephrased>\nDone.", "stop"), (f"<rephrased>{GOOD}</rephrased> and", "length"),
    (f"<rephrased>a</rephrased><rephrased>{GOOD}</rephrased>", "stop"), (f"<rephrased><rephrased>{GOOD}</rephrased>", "stop"),
])  # fmt: skip
def test_a_rephrasing_is_taken_from_between_the_last_markers(text, finish_reason):
    assert judge(text, finish_reason, keep_numbers=True) == GOOD


@pytest.mark.parametrize(("text", "reason"), [
    (GOOD, "no_markers"), ("", "no_markers"), (f"<rephrased>{GOOD}", "no_markers"), (f"{GOOD}</rephrased>", "no_markers"),
    ("</rephrased>x<rephrased>", "no_markers"), ("<rephrased> \n </rephrased>", "empty"),
    ("<rephrased>tom has 3 apples  and buys 4.\nHow many has he?</rephrased>", "unchanged"),
    (f"<rephrased>{'plum ' * 81}</rephrased>", "too_long"),
])  # fmt: skip
def test_rejected(text, reason):
    rejection = judge(text)
    assert (rejection.reason, rejection.reply) == (reason, text)
    assert reason in REASONS


def test_numbers_are_compared_on_request_and_lengths_limited():
    assert judge(f"<rephrased>{GOOD}", "length").reason == "cut_off"
    assert len(judge("x" * 10_000_000).reply) < 1100
    other = "<rephrased>Ann owns 5 plums. How many?</rephrased>"
    assert isinstance(judge(other), str)
    rejection = judge(other, keep_numbers=True)
    assert (rejection.reason, rejection.detail) == ("numbers", "lost 3, 4; new 5")
    long = "word " * 100  # 499 characters, for a question of 45
    assert judge(f"<rephrased>{long}</rephrased>", longest=12) == long.strip()
    assert judge(f"<rephrased>{long}</rephrased>", longest=11).detail == "499 characters for a question of 45"
    with pytest.raises(ValueError, match="`longest` must be > 0, got 0"):
        Checks(longest=0)


def test_an_instruction_of_ones_own(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("Say {question} otherwise, between <rephrased> and </rephrased>.")
    assert read_instruction(file).startswith("Say")
    assert read_instruction(None) == INSTRUCTION
    for missing in ("{question}", "<rephrased>", "</rephrased>"):
        file.write_text("{question} <rephrased> </rephrased>".replace(missing, "", 1))
        with pytest.raises(ValueError, match=f"mine.txt: an instruction must hold `{missing}`"):
            read_instruction(file)
    with pytest.raises(FileNotFoundError, match="`instruction` must name an existing file"):
        read_instruction(tmp_path / "nowhere.txt")
