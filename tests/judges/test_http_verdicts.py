"""What is read in a judge's reply, and what is not."""

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_focal.judges import Outcome, Verdict
from lightning_focal.judges.http import Form, read_verdicts
from lightning_focal.judges.http.verdicts import RESPONSE_FORMAT
from lightning_focal.rubrics import Criterion

FORM = Form("5f0c", (Criterion("kind", "Is kind."), Criterion("tone", "From 1 to 5.", low=1, high=5)))
KIND = {"id": "1-5f0c", "verdict": "met", "value": None, "reason": "thanks"}
ANALYSIS, FINAL = "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"
TONE = {"id": "2-5f0c", "verdict": "graded", "value": 4, "reason": "warm"}
RIGHT = {0: Verdict(Outcome.MET, None, "thanks"), 1: Verdict(Outcome.GRADED, 4.0, "warm")}


def reply(*entries):
    return json.dumps({"verdicts": list(entries)})


def one(**changes):
    """The verdict and the fault of the first criterion, whose entry is changed."""
    found, fault = read_verdicts(reply({**KIND, **changes}, TONE), FORM)
    assert found.get(1) == RIGHT[1]
    return found.get(0), fault


@pytest.mark.parametrize("text", [
    reply(KIND, TONE),
    reply(TONE, KIND),
    json.dumps({"verdicts": [KIND, TONE]}, indent=4),
    f"```json\n{reply(KIND, TONE)}\n```",
    f"Here you are: {reply(KIND, TONE)} I hope {{this}} helps.",
    f"<think>Is it {reply(KIND)}?</think>{reply(KIND, TONE)}",
    f"Is it {reply(TONE)}?\n</think>\n\n{reply(KIND, TONE)}",
    f"[THINK]{reply(KIND)}[/THINK]{reply(KIND, TONE)}",
    f"{ANALYSIS}{reply(KIND)}{FINAL}{reply(KIND, TONE)}",
    f"{reply({**KIND, 'id': '1'})} {reply(KIND, TONE)} " + reply({**KIND, "id": "1-0000"}),
    '{"verdicts": [' + reply(KIND, TONE) + "]}",
    reply({**KIND, "id": "9-5f0c"}, KIND, {"id": 1}, "met", TONE),
    "[" * 5000 + '{"verdicts": 3}' + reply(KIND, TONE),
], ids=map(str, range(13)))  # fmt: skip
def test_understood(text):
    assert read_verdicts(text, FORM) == (RIGHT, "")


@pytest.mark.parametrize(("text", "fault"), [
    ("", "no verdicts in the reply: "), ("met, 4", "no verdicts in the reply: met, 4"),
    (reply(KIND, TONE)[:-3], "broken JSON in the reply"), (reply(KIND, TONE).replace("4", "NaN"), "broken JSON in the reply"),
    (reply(KIND, TONE).replace('"verdict": "met"', '"verdict": "met", "verdict": "met"'), "broken JSON in the reply"),
    (reply(KIND, TONE) + reply(KIND, TONE), "2 lists of verdicts in the reply"),
    (json.dumps({"verdicts": [KIND, TONE], "notes": ""}), "keys beside `verdicts` in the reply"),
    (json.dumps([KIND, TONE]), "no verdicts in the reply"), (json.dumps({"verdicts": {"1-5f0c": "met"}}), "no verdicts in the reply"),
    (reply({**KIND, "id": "1"}, {**TONE, "id": "2"}), "no verdicts in the reply"),
    ('{"verdicts": [' * 3000 + reply(KIND, TONE), "more than 64 lists of verdicts in the reply"),
    ("x" * (1 << 20) + reply(KIND, TONE), "a reply of "),
    (f"<think>{reply(KIND, TONE)}", "no verdicts in the reply, whose thought does not end: <think>"),
    (f"{ANALYSIS}{reply(KIND, TONE)}", "no verdicts in the reply, whose thought does not end: "),
    (f"<think>{reply(KIND, TONE)}</think>Done.", "no verdicts in the reply: "),
    (f"{reply(KIND, TONE)}\n</think>", "no verdicts in the reply: "),
])  # fmt: skip
def test_refused_as_a_whole(text, fault):
    found, said = read_verdicts(text, FORM)
    assert found == {}
    assert said.startswith(fault)
    assert len(said) < 300


def test_a_reply_that_was_cut_off_holds_no_verdict():
    for text in (reply(KIND, TONE)[:-3], reply(KIND, TONE), f"A draft: {reply(KIND, TONE)}\nWait, let", "<think>Hm"):
        found, said = read_verdicts(text, FORM, cut_off=True)
        assert found == {}
        assert said.startswith("cut off by the limit of tokens, before the verdicts were whole: ")


def test_a_reason_may_quote_marks_and_break_lines_and_can_be_written_anywhere():
    for reason in ("it writes </think> first", "</think>", "<think>", "[/THINK]", "one\ntwo", FINAL):
        text = reply({**KIND, "reason": reason}, TONE).replace("\\n", "\n")
        for before in ("", "<think>a</think>", "a\n</think>\n"):
            found, fault = read_verdicts(before + text, FORM)
            assert (fault, found[0].reason) == ("", " ".join(reason.split()))
    verdict, _ = one(reason="half \ud800 a\npair " + "x" * 10_000)
    verdict.reason.encode()
    assert "\n" not in verdict.reason
    assert len(verdict.reason) == 500


def test_faults_of_an_entry():
    for said in ("yes", "true", "Met", "MET", "met ", "erfüllt", "", 1, 0, True, None, ["met"], {"met": 1}, "error"):
        verdict, fault = one(verdict=said)
        assert (verdict, "a verdict " in fault, fault.endswith("for criterion 1")) == (None, True, True), said
    assert one(value=1)[1] == "a value beside 'met' for criterion 1"
    assert one(value=False)[1] == "a value beside 'met' for criterion 1"
    assert one(reason=3)[1] == "a reason of type int for criterion 1"
    assert one(extra=1)[1].startswith("keys ['id', 'verdict', 'value', 'reason', 'extra'] in place of")
    assert one(verdict="graded", value=1)[1] == "a verdict 'graded' for criterion 1"
    assert one(verdict="not_applicable")[0] == Verdict(Outcome.NOT_APPLICABLE, None, "thanks")
    assert one(verdict="not_met")[0] == Verdict(Outcome.NOT_MET, None, "thanks")
    late, short = {"id": "1-5f0c", "reason": "", "verdict": "met"}, {"id": "1-5f0c", "verdict": "met"}
    assert read_verdicts(reply(late, TONE), FORM)[0] == {1: RIGHT[1]}
    assert read_verdicts(reply(short, TONE), FORM)[0] == {0: Verdict(Outcome.MET), 1: RIGHT[1]}


def test_grades():
    outside = dict.fromkeys((0.999, 5.001, -3, 10**400), "a value outside 1 to 5")
    for value, fault in (
        *outside.items(),
        *((value, f"a value of type {type(value).__name__}") for value in ("4", True, None, [4])),
    ):
        assert read_verdicts(reply(KIND, {**TONE, "value": value}), FORM) == ({0: RIGHT[0]}, f"{fault} for criterion 2")
    for value in (1, 5, 2.5, 1e0):
        assert read_verdicts(reply(KIND, {**TONE, "value": value}), FORM)[0][1].value == value
    found, said = read_verdicts(reply(KIND, {**TONE, "verdict": "met", "value": None}), FORM)
    assert (found, said) == ({0: RIGHT[0]}, "'met' in place of a number for criterion 2")
    text = reply({**KIND, "verdict": "graded", "value": 0.5}, TONE)
    assert read_verdicts(text, FORM)[0] == {1: RIGHT[1]}
    assert read_verdicts(text, Form("5f0c", FORM.criteria, partial=True))[0][0].value == 0.5


def test_missing_and_double():
    assert read_verdicts(reply(TONE), FORM) == ({1: RIGHT[1]}, "no verdict for criterion 1")
    for second in (KIND, {**KIND, "verdict": "not_met"}, {**KIND, "verdict": "yes"}):
        assert read_verdicts(reply(KIND, second, TONE, KIND), FORM) == ({1: RIGHT[1]}, "more than one verdict for criterion 1")
        assert read_verdicts(reply(second, TONE, KIND), FORM) == ({1: RIGHT[1]}, "more than one verdict for criterion 1")


@given(st.text(alphabet='{}[]",:\\ verdictsidmeasonul015f0c-', max_size=200))
def test_noise_gives_no_verdict(text):
    if "5f0c" not in text:
        assert read_verdicts(text, FORM)[0] == {}


@given(st.text(max_size=50), st.text(max_size=50))
def test_noise_around_changes_no_verdict(before, after):
    found, fault = read_verdicts(before + reply(KIND, TONE) + after, FORM)
    assert found == RIGHT or (not found and before.lstrip().startswith("<think>"))
    assert bool(fault) is (not found)


def test_the_schema_asks_for_what_is_read():
    schema = RESPONSE_FORMAT["json_schema"]["schema"]
    for entries in ([KIND, TONE], [{**KIND, "verdict": "not_applicable"}]):
        jsonschema.validate({"verdicts": entries}, schema)
    for entry in ({**KIND, "verdict": "yes"}, {**KIND, "value": "1"}, {**KIND, "more": 1}, {"id": "1-5f0c", "verdict": "met"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"verdicts": [entry]}, schema)
