"""Which part of a response a criterion is about, whoever judges: its answer, its thought, both, or all turns."""

import pytest

from lightning_focal.judges import JudgeRequest, LocalJudge, Outcome, RoutedJudge, RuleJudge, Verdict
from lightning_focal.judges.local import question_for
from lightning_focal.rubrics import Criterion
from tests.judges.faulty_server import asked, serving
from tests.judges.judges import Saying
from tests.judges.test_http_judge import all_right, judge_of

CHAT = ({"role": "user", "content": "List some fruit."},)
TEXT = "<think>\napple pear\n</think>\n\nplum plum apple"
SCOPES = ("answer", "thought", "both")


def criterion(words, scope="answer", **more):
    return Criterion(f"{words} {scope}", words, scope=scope, **more)


@pytest.mark.parametrize(("text", "counts"), [
    (TEXT, (3, 2, 5)), ("plum", (1, 0, 1)), ("<think>\napple", (0, 1, 1)), ("<think></think>plum", (1, 0, 1)),
    ("<|channel|>analysis<|message|>apple pear<|end|><|start|>assistant<|channel|>final<|message|>plum", (1, 2, 3)),
])  # fmt: skip
def test_rules_count_the_words_of_a_part_without_marks(text, counts):
    for scope, count in zip(SCOPES, counts, strict=True):
        for words, outcome in ((count, Outcome.MET), (count - 1, Outcome.NOT_MET)):
            limit = criterion("short", scope, check={"kind": "max_words", "words": max(words, 0)})
            (verdict,) = RuleJudge().judge([JudgeRequest(CHAT, text, (limit,))])[0]
            assert verdict.outcome is (outcome if count else Outcome.NOT_MET)
    if text == TEXT:
        limit = criterion("short", check={"kind": "max_words", "words": 6})
        for thinks, outcome in ((True, Outcome.MET), (False, Outcome.NOT_MET)):  # as it stands: the marks are words then
            (verdict,) = RuleJudge().judge([JudgeRequest(CHAT, TEXT, (limit,), thinks)])[0]
            assert verdict.outcome is outcome


@pytest.mark.parametrize(("text", "reasons"), [
    ("<think>\nplum", ("no answer: the thought did not end", None, None)), ("<think>\nplum</think>\n", ("no answer", None, None)),
    ("plum", (None, "no thought", None)), ("<think></think>plum", (None, "no thought", None)), (" \n", ("empty response",) * 3),
    ("", ("empty response",) * 3), ("\u200b", ("empty response",) * 3),
])  # fmt: skip
def test_a_part_that_is_empty_scores_zero_whoever_judges(text, reasons):
    other = Saying(**{f"ok {scope}": "yes" for scope in SCOPES}, **{f"bad {scope}": "no" for scope in SCOPES})
    criteria = tuple(criterion(words, scope, points=p) for scope in SCOPES for words, p in (("ok", 1), ("bad", -1)))
    request = JudgeRequest(CHAT, text, criteria)
    with serving() as server:
        rows = {"routed": RoutedJudge(other=other).judge([request])[0], "server": judge_of(server.url).judge([request])[0]}
    if all(reasons):
        rows["local"] = LocalJudge("random:tiny-llama").judge([request])[0]
    for row in rows.values():
        for scope, reason in zip(SCOPES, reasons, strict=True):
            good, fault = row[2 * SCOPES.index(scope) :][:2]
            if reason is not None:
                assert (good, fault) == (Verdict(Outcome.NOT_MET, None, reason), Verdict(Outcome.MET, None, reason))
            else:
                assert not good.reason.startswith(("no ", "empty"))
    put = [c.scope for given in other.asked[0] for c in given.criteria]
    assert put == [scope for scope, reason in zip(SCOPES, reasons, strict=True) if reason is None for _ in range(2)]


def test_a_conversation_is_all_turns_without_thoughts():
    said = (
        {"role": "assistant", "content": "<think>hm</think>Look."},
        {"role": "tool", "name": "search", "content": "a plum"},
        {"role": "assistant", "content": "It is one."},
    )
    says = tuple(criterion("plum", scope, check={"kind": "contains", "text": "plum"}) for scope in ("answer", "conversation"))
    request, alone = (JudgeRequest(CHAT, "It is one.", says, said=turns) for turns in (said, ()))
    assert request.text(says[1]) == "assistant: Look.\n\ntool: a plum\n\nassistant: It is one."
    assert alone.text(says[1]) == alone.text(says[0]) == "It is one."
    judged = [[verdict.outcome for verdict in row] for row in RuleJudge().judge([request, alone])]
    assert judged == [[Outcome.NOT_MET, Outcome.MET], [Outcome.NOT_MET, Outcome.NOT_MET]]
    assert "Turns that led to the response" in question_for(request, says[1]).text
    with serving() as server:
        judge_of(server.url).judge([request])
        shown = {asked(one["messages"][0]["content"])[0] for one in server.requests}
    assert shown == {"It is one.", request.text(says[1])}


@pytest.mark.parametrize(("per", "requests"), [("response", 3), ("criterion", 6)])
def test_a_server_is_asked_about_one_part_at_a_time(per, requests, tmp_path):
    says = tuple(criterion(f"Says {word}.", scope) for scope in SCOPES for word in ("plum", "pear"))
    cache = str(tmp_path / "v.sqlite")
    with serving() as server:
        judge = judge_of(server.url, per=per, cache=cache)
        (row,) = judge.judge([JudgeRequest(CHAT, TEXT, says)])
        assert [verdict.outcome is Outcome.MET for verdict in row] == [True, False, False, True, True, True]
        assert len(server.requests) == requests
        shown = {asked(request["messages"][0]["content"])[0] for request in server.requests}
        assert shown == {"plum plum apple", "apple pear", TEXT}
        words = {asked(request["messages"][0]["content"])[1][0][1] for request in server.requests}
        assert words >= {
            "(of the response and of what was thought before it) Says plum.",
            "(of what was thought before the response, which stands in its place) Says plum.",
            "Says plum.",
        }
        # the answer alone, in other words: known; the same thought in other marks: known, too
        other = TEXT.replace("<think>\n", "").replace("<think>", "")
        again = judge.judge([JudgeRequest(CHAT, "plum plum apple", says[:2]), JudgeRequest(CHAT, other, says[:4])])
        assert (again[0], again[1]) == (row[:2], row[:4])
        assert len(server.requests) == requests
        assert all_right([JudgeRequest(CHAT, "pear", says[:2])], judge.judge([JudgeRequest(CHAT, "pear", says[:2])]))


def test_a_local_judge_sees_the_part_and_answers_behind_a_thought_of_its_own(tmp_path):
    request = JudgeRequest(CHAT, TEXT, ())
    texts = [question_for(request, criterion("Says plum.", scope)).text for scope in SCOPES]
    assert "\n\nResponse:\n=====\nplum plum apple\n=====\n" in texts[0]
    assert "\n\nWhat was thought before the response:\n=====\napple pear\n=====\n" in texts[1]
    assert f"\n\nResponse, with what was thought before it:\n=====\n{TEXT}\n=====\n" in texts[2]
    endings = {
        "": "",
        "{% if enable_thinking is not false %}{{ '<think>' }}{% else %}{{ '<think></think>' }}{% endif %}": "<think></think>",
        "{{ '[THINK]' }}": "[THINK]\n[/THINK]\n\n",
    }
    for ending, expected in endings.items():
        judge = LocalJudge("random:tiny-llama", least_mass=0.0)
        tokenizer = judge._model()[1]
        tokenizer.chat_template += ending
        assert tokenizer.decode(judge._encode("Hm?")).partition("assistant\n")[2] == expected
    judge = LocalJudge("random:tiny-llama", template_kwargs={"enable_thinking": True})
    judge._model()[1].chat_template += list(endings)[1]
    assert judge._model()[1].decode(judge._encode("Hm?")).endswith("<think>\n</think>\n\n")
    with pytest.raises(ValueError, match=r"`template_kwargs` must hold .* got 'tokenize', which is set already"):
        LocalJudge("random:tiny-llama", template_kwargs={"tokenize": True})
    judge._model()[1].add_tokens(["[THINK]", "[/THINK]"], special_tokens=True)
    (verdict,) = judge.judge([JudgeRequest(CHAT, "[THINK]a", (criterion("Is kind."),))])[0]
    assert verdict.reason == "no answer: the thought did not end"  # no text of a response reads as a mark of this judge
