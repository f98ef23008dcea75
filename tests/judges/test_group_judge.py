"""A judge that compares responses, against a server that ranks them by a word."""

import json
import logging
import re

import pytest

from lightning_focal.judges import GroupJudge, HTTPJudge, JudgeRequest, JudgeThread, Outcome, RoutedJudge, Verdict
from lightning_focal.judges.http.group import win_rates
from lightning_focal.judges.scoring import verdicts_to_scores
from lightning_focal.rewards.early import EarlyVerdicts, judged_at_once
from lightning_focal.rubrics import Criterion, Rubric
from tests.judges.faulty_server import serving

CHAT = ({"role": "user", "content": "List some fruit."},)
APPLE, PEAR = Criterion("apple", "Says apple."), Criterion("pear", "Says pear.", -2)
PLUM = Criterion("plum", "Says plum.", low=0, high=9)
SHORT = Criterion("short", "Is short.", check={"kind": "max_words", "words": 3})
TEXTS = ("apple apple plum", "apple pear", "apple plum plum", "pear pear")


def shown(prompt):
    """The responses in the order in which they stand in a prompt."""
    return [text for _, text in re.findall(r"<response-(\d+-[0-9a-f]+)>\n(.*?)\n</response-\1>", prompt, re.DOTALL)]


def entries_of(prompt):
    """``[(id, response, its word's count)]`` in order."""
    responses, found = shown(prompt), []
    for words, ids in re.findall(r"^.*Says (\w+)\.\n.*\n(.*)$", prompt, re.MULTILINE):
        for id_, number in re.findall(r"(\S+) for response (\d+)", ids):
            found.append((id_, responses[int(number) - 1], words))
    return found


def entry(id_, value, said="graded"):
    return {"id": id_, "verdict": said, "value": value, "reason": "counted"}


def by_count(prompt):
    """Ranks where ranks are asked for: 1 + how many say the word more often; else the count, or whether it is there at all."""
    made, found = [], entries_of(prompt)
    for id_, text, word in found:
        counts = {other: other.split().count(word) for _, other, of in found if of == word}
        if "its rank" in prompt:
            made.append(entry(id_, 1 + sum(count > counts[text] for count in counts.values())))
        else:
            made.append(entry(id_, min(counts[text], 1) if word != "plum" else counts[text]))
    return json.dumps({"verdicts": made})


def judge_of(url, **options):
    return GroupJudge(url, "judge", **{"first_wait_s": 0.02, "max_wait_s": 0.05, "attempts": 2, "partial": True, **options})


def group(texts=TEXTS, criteria=(APPLE, PEAR, PLUM), chat=CHAT, repeat=0):
    return [JudgeRequest(chat, text, criteria, repeat=repeat) for text in texts]


def values(rows, place):
    return [row[place].value for row in rows]


def test_win_rates_by_hand():
    """apple: 2, 1, 1, 0 times; pear: 0, 1, 0, 2; plum, from 0 to 9: 1, 0, 2, 0."""
    with serving(reply=by_count) as server:
        rows = judge_of(server.url).judge(group())
        assert len(server.requests) == 1
        apart, thread = judge_of(server.url, per="criterion"), JudgeThread(judge_of(server.url))
        assert [[v.value for v in row] for row in apart.judge(group())] == [[v.value for v in row] for row in rows]
        assert len(server.requests) == 3 + 1
        thread.add(group())
        assert thread.finish() == rows
    assert values(rows, 0) == pytest.approx([1, 1 / 2, 1 / 2, 0])
    assert values(rows, 1) == pytest.approx([1 / 6, 2 / 3, 1 / 6, 1])
    assert values(rows, 2) == pytest.approx([9 * 2 / 3, 9 / 6, 9, 9 / 6])
    assert {verdict.outcome for row in rows for verdict in row} == {Outcome.GRADED}
    scores = verdicts_to_scores([rows], [Rubric((APPLE, PEAR, PLUM))])
    assert scores.scores[0, :, 1].tolist() == pytest.approx([5 / 6, 1 / 3, 5 / 6, 0])  # a fault: 1 - how much it is there
    assert scores.mask.all()
    assert re.fullmatch(r"shown as [1-4] of 4: beats 100% of 3: counted", rows[0][0].reason)


def test_equal_and_empty_responses_and_one_alone():
    """Equal ones are shown once and tie; an empty one is not shown, and beaten by all, in a fault by none."""
    with serving(reply=by_count) as server:
        rows = judge_of(server.url, ask="scores").judge(group())
        assert values(rows, 2) == [1, 0, 2, 0]
        assert values(rows, 0) == [1, 1, 1, 0]
        for ask in ("ranking", "scores"):  # nobody to compare it with
            (row,) = judge_of(server.url, ask=ask).judge(group(("apple plum plum",)))
            assert [verdict.value for verdict in row] == [1, 0, 2]
        assert values(judge_of(server.url).judge(group(("apple plum", "", "apple plum"))), 2) == [1, None, 1]
        server.requests.clear()
        rows = judge_of(server.url).judge(group(("apple", "apple", " ", "plum"), (APPLE, PEAR)))
        assert sorted(shown(server.requests[0]["messages"][0]["content"])) == ["apple", "plum"]
    assert values(rows, 0) == pytest.approx([2.5 / 3, 2.5 / 3, None, 1 / 3])
    assert values(rows, 1) == pytest.approx([1 / 3, 1 / 3, None, 1 / 3])
    assert [verdict.outcome for verdict in rows[2]] == [Outcome.NOT_MET, Outcome.MET]


def test_the_order_is_drawn_from_prompt_and_seed():
    def orders(**options):
        with serving(reply=by_count) as server:
            judge, texts = judge_of(server.url, **options), [f"apple {i}" for i in range(6)]
            for chat in ("One?", "Two?", "Three?"):
                judge.judge(group(texts, chat=({"role": "user", "content": chat},)))
            judge.judge(group(texts, chat=({"role": "user", "content": "One?"},), repeat=1))
            return [shown(request["messages"][0]["content"]) for request in server.requests]

    first = orders()
    assert first == orders()
    assert first != orders(seed=1)
    assert len({tuple(order) for order in first}) == 4


def test_what_a_reply_leaves_out_is_asked_again_and_then_an_error(tmp_path):
    """The rest is ranked without it, and not kept; a criterion that is whole is."""

    def partial(prompt):
        made = json.loads(by_count(prompt))["verdicts"]
        left = {id_ for id_, text, word in entries_of(prompt) if word == "apple" and text == "apple pear"}
        return json.dumps({"verdicts": [one for one in made if one["id"] not in left]})

    with serving(reply=partial) as server:
        judge = judge_of(server.url, cache=str(tmp_path / "v.sqlite"))
        rows = judge.judge(group())
        assert len(server.requests) == 2
        assert {word for _, _, word in entries_of(server.requests[1]["messages"][0]["content"])} == {"apple"}
        assert rows[1][0].outcome is Outcome.ERROR
        assert "no verdict for criterion 1 of response" in rows[1][0].reason
        assert [rows[i][0].value for i in (0, 2, 3)] == pytest.approx([1, 1 / 2, 0])
        assert len(judge.cache) == 8
        server.reply = by_count
        assert values(judge.judge(group()), 0) == pytest.approx([1, 1 / 2, 1 / 2, 0])
        assert len(server.requests) == 3
        assert values(judge.judge(group()), 0) == pytest.approx([1, 1 / 2, 1 / 2, 0])
        assert len(server.requests) == 3
        judge.judge(group(TEXTS[:3]))  # another group: other verdicts
        assert len(server.requests) == 4


def test_malformed_replies_are_errors():
    """Prose, out of range, no rank, no nonce."""
    for fault in (None, lambda id_: entry(id_, 5), lambda id_: entry(id_, None, "met"), lambda id_: entry(id_.split("-")[0], 1)):

        def reply(prompt, fault=fault):
            return json.dumps({"verdicts": [fault(id_) for id_, *_ in entries_of(prompt)]}) if fault else "I like the second one."

        with serving(reply=reply) as server:
            rows = judge_of(server.url).judge(group(criteria=(APPLE,)))
        assert {verdict.outcome for row in rows for verdict in row} == {Outcome.ERROR}
        assert all(row[0].reason for row in rows)


def test_not_applicable_compares_with_nothing():
    criterion, graded = Criterion("kind", "Is kind."), Verdict(Outcome.GRADED, 2.0, "r")
    other = Verdict(Outcome.NOT_APPLICABLE, reason="n/a")
    found = win_rates(criterion, {"a": Verdict(Outcome.GRADED, 1.0), "b": graded, "c": other}, ["a", "b", "c"])
    assert [verdict.value for verdict in found.values()] == [1.0, 0.0, None]
    assert win_rates(criterion, {"a": graded, "c": other}, ["a", "c"])["a"].outcome is Outcome.NOT_APPLICABLE


def test_groups_come_whole_beside_generation():
    """Out of order, two prompts alike, through a judge of judges: as when all are there."""
    with serving(reply=by_count) as server:
        for judge in (judge_of(server.url), RoutedJudge(other=judge_of(server.url))):
            criteria = (APPLE, PLUM) if isinstance(judge, GroupJudge) else (SHORT, APPLE, PLUM)
            texts = {0: TEXTS, 1: (*TEXTS[2:], "", "plum"), 2: TEXTS}
            wanted = {(p, i, 0): one for p in texts for i, one in enumerate(group(texts[p], criteria))}
            early, before = EarlyVerdicts(judge, 4), len(server.requests)
            for place in sorted(wanted, key=lambda place: (place[1], -place[0])):
                early.add(place, wanted[place])
            assert early.take(wanted) == judged_at_once(judge, wanted)
            assert len(server.requests) == before + 4  # of equal groups one is asked about, each time
            assert all(len(shown(request["messages"][0]["content"])) in (3, 4) for request in server.requests)


def test_arguments_and_identity(caplog):
    url = "http://localhost:1"
    with pytest.raises(ValueError, match="`ask` must be 'ranking' or 'scores', got 'votes'"):
        GroupJudge(url, "m", ask="votes")
    with caplog.at_level(logging.WARNING):
        names = {one.identity for one in (GroupJudge(url, "m"), GroupJudge(url, "m", ask="scores"), GroupJudge(url, "m", seed=1))}
    assert len({*names, HTTPJudge(url, "m", partial=True).identity}) == 4
