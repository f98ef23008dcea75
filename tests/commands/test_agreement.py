"""A judge against gold verdicts: every figure by hand."""

from __future__ import annotations

import json

import pytest

from lightning_focal.commands.agreement import agreement_command, measure_agreement
from lightning_focal.commands.gold import read_gold
from lightning_focal.judges import Judge
from lightning_focal.rubrics import RubricError
from tests.judges.judges import WORDS, graded

RUBRIC = [
    {"name": "short", "description": "At most 3 words.", "check": {"kind": "max_words", "words": 3}},
    {"name": "calm", "description": "No exclamation mark.", "points": -1, "check": {"kind": "contains", "text": "!"}},
]


def row(response, verdicts, **more):
    return {"prompt": "Q?", "rubric": RUBRIC, "response": response, "verdicts": verdicts, **more}


def write(tmp_path, *rows):
    path = tmp_path / "gold.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


class Scripted(Judge):
    """One verdict after the other."""

    def __init__(self, *rounds):
        self.rounds = [[WORDS[said] if isinstance(said, str) else graded(said) for said in said_now] for said_now in rounds]

    def judge(self, requests):
        left = iter(self.rounds.pop(0))
        return [tuple(next(left) for _ in request.criteria) for request in requests]


def test_figures_by_hand(tmp_path):
    golds = [True, True, True, False, False, False, True, False]
    cases = read_gold(write(tmp_path, *(row("a", {"short": gold}) for gold in golds)))
    said = ["yes", "yes", "no", "no", "yes", "no", "error", "n/a"]
    figures = measure_agreement(Scripted(said), cases)
    # judged: 6, of them 4 right; gold met 3, judge met 3: p_o = 4/6, p_e = 1/2
    assert (figures["responses"], figures["labels"], figures["judged"], figures["errors"], figures["not_applicable"]) == (
        8,
        8,
        6,
        1,
        1,
    )
    assert figures["accuracy"] == pytest.approx(4 / 6)
    assert figures["kappa"] == pytest.approx(1 / 3)
    assert figures["error_share"] == 1 / 8
    assert figures["mean_difference"] == pytest.approx(2 / 6)
    assert figures["confusion"] == {"met": {"met": 2, "not_met": 1}, "not_met": {"met": 1, "not_met": 2}}
    assert (figures["consistency"], figures["unanimous"]) == (None, None)
    assert figures["criteria"]["short"]["accuracy"] == figures["accuracy"]


def test_figures_by_criterion(tmp_path):
    cases = read_gold(write(tmp_path, row("a", [True, False]), row("b", [False, True])))
    figures = measure_agreement(Scripted(["yes", "yes", "no", "yes"]), cases)
    assert figures["criteria"]["short"]["accuracy"] == 1.0
    assert figures["criteria"]["short"]["kappa"] == 1.0
    assert figures["criteria"]["calm"]["accuracy"] == 0.5
    assert figures["criteria"]["calm"]["kappa"] == 0.0
    assert figures["criteria"]["calm"]["confusion"] == {"met": {"met": 1, "not_met": 0}, "not_met": {"met": 1, "not_met": 0}}
    assert figures["accuracy"] == 0.75


def test_criteria_with_an_axis_are_counted_together(tmp_path):
    rubric = [{"name": name, "description": "d", "tags": ["axis:tone"]} for name in ("a", "b")]
    cases = read_gold(write(tmp_path, {**row("a", [True, True]), "rubric": rubric}))
    assert measure_agreement(Scripted(["yes", "no"]), cases)["criteria"]["tone"]["accuracy"] == 0.5


def test_consistency_by_hand(tmp_path):
    cases = read_gold(write(tmp_path, *(row("a", {"short": True}) for _ in range(3))))
    figures = measure_agreement(
        Scripted(["yes", "yes", "error"], ["yes", "no", "yes"], ["yes", "yes", "error"]), cases, repeats=3
    )
    # first: 3 of 3 pairs agree; second: 1 of 3; third: judged once, no pair
    assert figures["consistency"] == pytest.approx(4 / 6)
    assert figures["unanimous"] == 0.5
    assert (figures["judged"], figures["errors"], figures["labels"]) == (7, 2, 3)
    assert figures["accuracy"] == pytest.approx(6 / 7)


def test_nothing_judged(tmp_path):
    cases = read_gold(write(tmp_path, row("a", {"short": True})))
    figures = measure_agreement(Scripted(["error"], ["error"]), cases, repeats=2)
    assert (figures["judged"], figures["accuracy"], figures["kappa"], figures["mean_difference"]) == (0, None, None, None)
    assert (figures["error_share"], figures["consistency"], figures["unanimous"]) == (1.0, None, None)


def test_grades(tmp_path):
    rubric = [{"name": "tone", "description": "Kind?", "low": 1, "high": 5}]
    cases = read_gold(write(tmp_path, *({**row("a", [gold]), "rubric": rubric} for gold in (4, 2, True))))
    assert [case.met for case in cases] == [(0.75,), (0.25,), (1.0,)]
    figures = measure_agreement(Scripted([3.0, 1.0, 5.0]), cases)
    assert figures["accuracy"] == 1.0
    assert figures["mean_difference"] == pytest.approx((0.25 + 0.25 + 0) / 3)


def test_several_responses_and_labels_left_out(tmp_path):
    entries = [{"response": "a", "verdicts": ["met", None]}, {"response": "b", "verdicts": {"calm": "not_met"}}]
    more = {"response": "c", "verdicts": {"calm": "not_applicable"}}
    path = write(tmp_path, {"id": "x", "prompt": "Q?", "rubric": RUBRIC, "responses": [*entries, more]})
    cases = read_gold(path)
    assert [(case.id, case.request.response, case.keys, case.met) for case in cases] == [
        ("x#0", "a", ("short",), (1.0,)),
        ("x#1", "b", ("calm",), (0.0,)),
    ]


def test_other_formats(tmp_path):
    rubrics = [{"criterion": "Names the dose.", "points": 5, "tags": ["axis:accuracy"]}]
    gold = {
        "prompt_id": "p",
        "prompt": [{"role": "user", "content": "Q?"}],
        "rubrics": rubrics,
        "response": "a",
        "verdicts": [True],
    }
    (case,) = read_gold(write(tmp_path, gold))
    assert case.keys == ("accuracy",)
    assert case.request.criteria[0].description == "Names the dose."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"response": None}, r"gold.jsonl:1: `response` must be a string, got None"),
        ({"verdicts": None}, r"`verdicts` must be a list of one verdict per criterion \(2\), or a mapping by name, got None"),
        ({"verdicts": [True]}, r"`verdicts` must be a list of one verdict per criterion \(2\)"),
        ({"verdicts": {"shrt": True}}, r"`verdicts` must be by the names short, calm, got 'shrt'"),
        ({"verdicts": ["maybe", None]}, r"`verdicts\['short'\]` must be true, false, 'met', .* from 0 to 1, got 'maybe'"),
        ({"verdicts": [2, None]}, r"`verdicts\['short'\]` must be .* a grade, or null .* from 0 to 1, got 2"),
        ({"responses": [3]}, "`responses` must be a list of mappings with `response` and `verdicts`, got \\[3\\]"),
        ({"responses": [{"verdicts": []}]}, r"`responses\[0\]\.response` must be a string, got None"),
        ({"verdicts": [None, None]}, "`verdicts` must be given for at least one criterion, got None"),
    ],
)
def test_malformed(tmp_path, changes, message):
    with pytest.raises(RubricError, match=message):
        read_gold(write(tmp_path, {**row("a", [True, True]), **changes}))


def test_the_command(tmp_path, capsys):
    path = write(tmp_path, row("one two three", [True, False]), row("one two three four!", [True, True]))
    out = tmp_path / "out.json"
    agreement_command(["--agreement", str(path), "--judge=RuleJudge", "--repeats=2", f"--json={out}"])
    figures = json.loads(out.read_text())
    assert (figures["accuracy"], figures["consistency"], figures["labels"]) == (0.75, 1.0, 4)
    assert figures["judge"]["class_path"].endswith("RuleJudge")
    assert figures["criteria"]["calm"]["kappa"] == 1.0
    said = capsys.readouterr().out
    assert "4 verdicts on 2 responses" in said
    assert "Asked 2 times: 1.000 of the pairs of verdicts agree" in said


MAJORITY = "{class_path: MajorityJudge, init_args: {judges: [{class_path: RuleJudge}, {class_path: RuleJudge}]}}"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"judge: {MAJORITY}", "MajorityJudge"),
        (f"seed: 1\nreward: {{class_path: FocalReward, init_args: {{gamma: 1, judge: {MAJORITY}}}}}", "MajorityJudge"),
        (f"trainer: {{callbacks: [{{class_path: StaticReward, init_args: {{judge: {MAJORITY}}}}}]}}", "MajorityJudge"),
        ("reward: {class_path: FocalReward, init_args: {judge: null}}", "RuleJudge"),
    ],
)
def test_the_judge_of_a_configuration(tmp_path, text, name):
    path = write(tmp_path, row("one two three", [True, False]))
    config = tmp_path / "run.yaml"
    config.write_text(text)
    agreement_command(["--config", str(config), "--agreement", str(path), f"--json={tmp_path / 'out.json'}"])
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["accuracy"] == 1.0
    assert figures["judge"]["class_path"].endswith(name)


def test_one_judge_is_needed(tmp_path):
    path = write(tmp_path, row("one two three", [True, False]))
    for more in ([], ["--judge=RuleJudge", "--config=x.yaml"]):
        with pytest.raises(ValueError, match="`--judge` must be given, or `--config` with one, but not both"):
            agreement_command(["--agreement", str(path), *more])
    with pytest.raises(FileNotFoundError, match=r"`--config` must be an existing file, got 'x\.yaml'"):
        agreement_command(["--agreement", str(path), "--config=x.yaml"])


def test_a_criterion_the_judge_cannot_judge_is_refused_first(tmp_path):
    path = write(tmp_path, {**row("a", [True]), "rubric": [{"name": "kind", "description": "Is kind."}]})
    with pytest.raises(ValueError, match=r"criterion 'kind' has no `check`"):
        agreement_command(["--agreement", str(path), "--judge=RoutedJudge"])
    with pytest.raises(ValueError, match="`repeats` must be >= 1, got 0"):
        agreement_command(["--agreement", str(path), "--judge=RoutedJudge", "--repeats=0"])
