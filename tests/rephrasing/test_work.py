"""Asking, checking, asking again, writing down: with a writer whose replies are written beforehand."""

import pytest

from lightning_focal.data import PairRow
from lightning_focal.rephrasing import Journal, Tally, Writer, rephrase
from lightning_focal.rephrasing.journal import pair_line
from lightning_focal.servers import ChatRefused, ChatReply, ChatUnavailable, ChatUnusable


def user(text):
    return ({"role": "user", "content": text},)


ROWS = [PairRow(name, f"What is {name}?", user(f"What is {name}?")) for name in "abcd"]


class Scripted(Writer):
    """Gives a row's replies one after another; remembers what it was asked."""

    def __init__(self, replies, width=2):
        self.script, self.width, self.asked, self.closed = replies, width, [], False

    def replies(self, queue):
        try:
            while queue:
                ask = queue.popleft()
                self.asked.append(ask)
                reply = self.script[ask.id][ask.attempt] if isinstance(self.script, dict) else self.script
                yield ask, reply if isinstance(reply, Exception) else ChatReply(reply)
        finally:
            self.closed = True


def good(name):
    return f"<rephrased>Name {name}.</rephrased>"


def work(tmp_path, script, rows=ROWS, width=2, **kwargs):
    writer = script if isinstance(script, Writer) else Scripted(script, width)
    with Journal(tmp_path / "j", {"input": {}, "settings": {}}) as journal:
        return rephrase(rows, writer, journal, **kwargs), journal.entries, writer


def test_rejected_replies_are_asked_again(tmp_path):
    script = {
        "a": [good("a")],
        "b": ["rubbish", "<rephrased></rephrased>", good("b")],
        "c": ["x", "<rephrased>what is c?</rephrased>", "<rephrased> </rephrased>"],
        "d": [good("d")],
    }
    tally, entries, writer = work(tmp_path, script, seed=1)
    assert (tally.pairs, dict(tally.dropped), tally.undone) == (3, {"empty": 1}, [])
    assert dict(tally.rejected) == {"no_markers": 2, "empty": 2, "unchanged": 1}
    assert tally.finished == tally.questions == 4
    assert entries["b"]["rephrased"] == "Name b."
    assert [one["reason"] for one in entries["b"]["rejected"]] == ["no_markers", "empty"]
    assert entries["c"]["rephrased"] is None
    assert entries["c"]["rejected"][0]["reply"] == "x"
    assert [ask.attempt for ask in writer.asked if ask.id == "c"] == [0, 1, 2]
    assert len({ask.seed for ask in writer.asked}) == len(writer.asked) == 8
    assert all(0 <= ask.seed < 2**31 for ask in writer.asked)


def test_finished_rows_are_not_asked_again(tmp_path):
    work(tmp_path, {"a": ["x"], "b": [good("b")]}, ROWS[:2], attempts=1)
    tally, entries, writer = work(tmp_path, {name: [good(name)] for name in "abcd"}, attempts=1)
    assert writer.asked[0].seed is None
    assert [ask.id for ask in writer.asked] == ["c", "d"]
    assert (tally.pairs, dict(tally.dropped)) == (3, {"no_markers": 1})
    assert list(entries) == ["a", "b", "c", "d"]
    again, _, writer = work(tmp_path, {}, attempts=1)
    assert writer.asked == []
    assert again == tally
    _, _, first = work(tmp_path / "1", "x", seed=3, attempts=2)  # seeds depend on the question alone
    _, _, second = work(tmp_path / "2", "x", ROWS[::-1], seed=3, attempts=2)
    assert {(a.id, a.attempt): a.seed for a in first.asked} == {(a.id, a.attempt): a.seed for a in second.asked}


def test_questions_without_a_reply_are_left_for_the_next_run(tmp_path):
    script = {"a": [good("a")], "b": [ChatUnavailable("down")], "c": ["x", ChatUnavailable("down")], "d": [good("d")]}
    tally, entries, _ = work(tmp_path, script)
    assert tally.undone == ["b", "c"]
    assert (tally.pairs, tally.finished) == (2, 2)
    assert list(entries) == ["a", "d"]
    tally, _, writer = work(tmp_path, {name: [good(name)] for name in "abcd"})
    assert [ask.id for ask in writer.asked] == ["b", "c"]
    assert (tally.pairs, tally.undone) == (4, [])


def test_a_server_that_is_gone_ends_the_work(tmp_path):
    rows = [PairRow(str(i), "?", user("?")) for i in range(20)]
    writer = Scripted(ChatUnavailable("http://x gave no reply"), width=5)
    with pytest.raises(ChatUnavailable, match="http://x gave no reply; gave up after 5 questions without a reply"):
        work(tmp_path, writer, rows)
    assert writer.closed
    alone = Scripted(ChatUnavailable("down"), width=1)
    with pytest.raises(ChatUnavailable, match="after 3 questions"):
        work(tmp_path, alone, rows)
    assert len(alone.asked) == 3


def test_a_refused_question_is_dropped_without_another_try(tmp_path):
    script = {"a": [ChatRefused("too long")], "b": [good("b")], "c": [ChatRefused("too long, too")], "d": [good("d")]}
    tally, entries, writer = work(tmp_path, script)
    assert (tally.pairs, dict(tally.dropped)) == (2, {"refused": 2})
    assert entries["a"]["rejected"] == [{"reason": "refused", "detail": "too long", "reply": ""}]
    assert len(writer.asked) == 4


def test_where_everything_is_refused_nothing_is_dropped(tmp_path):
    with pytest.raises(ChatRefused, match="every question was refused: unknown option"):
        work(tmp_path, ChatRefused("unknown option"))
    rows = [PairRow(str(i), "?", user("?")) for i in range(20)]
    writer = Scripted(ChatRefused("unknown option"))
    with pytest.raises(ChatRefused, match="the first 8 questions were refused: unknown option"):
        work(tmp_path, writer, rows)
    assert len(writer.asked) == 8
    assert len(work(tmp_path, {name: [good(name)] for name in "abcd"})[1]) == 4


def test_what_concerns_every_question_ends_the_work(tmp_path):
    with pytest.raises(ChatUnusable, match="key rejected"):
        work(tmp_path, {"a": [good("a")], "b": [ChatUnusable("key rejected")]})
    assert work(tmp_path, {name: [good(name)] for name in "abcd"})[0].pairs == 4


def test_progress_is_told(tmp_path):
    seen, tally, script = [], Tally(2), {"a": ["x"], "b": [good("b")]}
    work(tmp_path, script, ROWS[:2], attempts=1, tally=tally, on_progress=lambda now: seen.append(now.finished))
    assert seen == [0, 1, 2]
    assert tally.pairs == 1


def test_a_pair_as_a_row():
    row = PairRow("a", "1 + 1?", user("1 + 1?"), None, "2", {"level": 3, "prompt": "p", "score": float("nan")})
    texts = {"question": "1 + 1?", "rephrased": "Twice one?", "answer": "2"}
    assert pair_line(row, "Twice one?") == {"id": "a", **texts, "level": 3, "source_prompt": "p", "score": None}
    # a chat keeps what stands around the question
    chat = ({"role": "system", "content": "Box it."}, {"role": "user", "content": "1 + 1? Think."})
    line = pair_line(PairRow("a", "1 + 1?", chat), "Twice one?")
    assert line["question"] == [dict(turn) for turn in chat]
    assert line["rephrased"] == [chat[0], {"role": "user", "content": "Twice one? Think."}]
    assert "answer" not in line
