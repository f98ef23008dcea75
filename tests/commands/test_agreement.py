"""A judge against gold verdicts: every figure by hand."""

from __future__ import annotations

import json

import pytest

from lightning_focal.commands.agreement import agreement_command, measure_agreement, read_gold
from lightning_focal.commands.judge import judge_command
from lightning_focal.judges import Judge, Outcome, Verdict
from lightning_focal.rubrics import RubricError
from tests.conftest import write_rows

RUBRIC = [
    {"name": "short", "description": "At most 3 words.", "check": {"kind": "max_words", "words": 3}},
    {"name": "calm", "description": "No exclamation mark.", "points": -1, "check": {"kind": "contains", "text": "!"}},
]


def row(response, verdicts, **more):
    return {"prompt": "Q?", "rubric": RUBRIC, "response": response, "verdicts": verdicts, **more}


def write(tmp_path, *rows):
    return write_rows(tmp_path / "gold.jsonl", rows)


WORDS = {"yes": Outcome.MET, "no": Outcome.NOT_MET, "n/a": Outcome.NOT_APPLICABLE, "error": Outcome.ERROR}


class Scripted(Judge):
    """One verdict after the other."""

    asked = 0

    def __init__(self, *rounds):
        self.rounds = [[Verdict(WORDS[s]) if isinstance(s, str) else Verdict(Outcome.GRADED, s) for s in said] for said in rounds]

    def judge(self, requests):
        assert {request.repeat for request in requests} == {self.asked}  # a cache of verdicts tells repeats apart
        self.asked += 1
        left = iter(self.rounds.pop(0))
        return [tuple(next(left) for _ in request.criteria) for request in requests]


def test_figures_by_hand(tmp_path):
    golds = [True, True, True, False, False, False, True, False]
    cases = read_gold(write(tmp_path, *(row("a", {"short": gold}) for gold in golds)))
    figures = measure_agreement(Scripted(["yes", "yes", "no", "no", "yes", "no", "error", "n/a"]), cases)
    # judged: 6, of them 4 right; gold met 3, judge met 3: p_o = 4/6, p_e = 1/2
    counts = {"responses": 8, "labels": 8, "judged": 6, "errors": 1, "not_applicable": 1, "consistency": None, "unanimous": None}
    assert {name: figures[name] for name in counts} == counts
    assert [figures[name] for name in ("accuracy", "kappa", "error_share")] == pytest.approx([4 / 6, 1 / 3, 1 / 8])
    assert figures["mean_difference"] == pytest.approx(2 / 6)
    assert figures["confusion"] == {"met": {"met": 2, "not_met": 1}, "not_met": {"met": 1, "not_met": 2}}
    assert figures["criteria"]["short"]["accuracy"] == figures["accuracy"]


def test_figures_by_criterion(tmp_path):
    cases = read_gold(write(tmp_path, row("a", [True, False]), row("b", [False, True])))
    figures = measure_agreement(Scripted(["yes", "yes", "no", "yes"]), cases)
    short, calm = (figures["criteria"][name] for name in ("short", "calm"))
    assert (short["accuracy"], short["kappa"], calm["accuracy"], calm["kappa"], figures["accuracy"]) == (1.0, 1.0, 0.5, 0.0, 0.75)
    assert calm["confusion"] == {"met": {"met": 1, "not_met": 0}, "not_met": {"met": 1, "not_met": 0}}
    rubric = [{"name": name, "description": "d", "tags": ["axis:tone"]} for name in ("a", "b")]
    together = read_gold(write(tmp_path, row("a", [True, True], rubric=rubric)))  # criteria with an axis
    assert measure_agreement(Scripted(["yes", "no"]), together)["criteria"]["tone"]["accuracy"] == 0.5


def test_consistency_by_hand(tmp_path):
    cases = read_gold(write(tmp_path, *(row("a", {"short": True}) for _ in range(3))))
    rounds = (["yes", "yes", "error"], ["yes", "no", "yes"], ["yes", "yes", "error"])
    figures = measure_agreement(Scripted(*rounds), cases, repeats=3)
    # first: 3 of 3 pairs agree; second: 1 of 3; third: judged once, no pair
    assert (figures["consistency"], figures["unanimous"]) == (pytest.approx(4 / 6), 0.5)
    assert (figures["judged"], figures["errors"], figures["labels"]) == (7, 2, 3)
    assert figures["accuracy"] == pytest.approx(6 / 7)
    figures = measure_agreement(Scripted(["error"], ["error"]), cases[:1], repeats=2)
    nothing = ("accuracy", "kappa", "mean_difference", "consistency", "unanimous")
    assert [figures[name] for name in ("judged", "error_share", *nothing)] == [0, 1.0, *[None] * 5]


def test_grades(tmp_path):
    rubric = [{"name": "tone", "description": "Kind?", "low": 1, "high": 5}]
    cases = read_gold(write(tmp_path, *(row("a", [gold], rubric=rubric) for gold in (4, 2, True))))
    assert [case.met for case in cases] == [(0.75,), (0.25,), (1.0,)]
    figures = measure_agreement(Scripted([3.0, 1.0, 5.0]), cases)
    assert figures["accuracy"] == 1.0
    assert figures["mean_difference"] == pytest.approx((0.25 + 0.25 + 0) / 3)


def test_several_responses_labels_left_out_and_other_formats(tmp_path):
    entries = [{"response": "a", "verdicts": ["met", None]}, {"response": "b", "verdicts": {"calm": "not_met"}}]
    entries.append({"response": "c", "verdicts": {"calm": "not_applicable"}})
    cases = read_gold(write(tmp_path, {"id": "x", "prompt": "Q?", "rubric": RUBRIC, "responses": entries}))
    found = [(case.id, case.request.response, case.keys, case.met) for case in cases]
    assert found == [("x#0", "a", ("short",), (1.0,)), ("x#1", "b", ("calm",), (0.0,))]
    rubrics = [{"criterion": "Names the dose.", "points": 5, "tags": ["axis:accuracy"]}]
    health = {"prompt_id": "p", "prompt": [{"role": "user", "content": "Q?"}], "rubrics": rubrics}
    (case,) = read_gold(write(tmp_path, {**health, "response": "a", "verdicts": [True]}))
    assert (case.keys, case.request.criteria[0].description) == (("accuracy",), "Names the dose.")


@pytest.mark.parametrize(("changes", "message"), [
    ({"response": None}, r"gold.jsonl:1: `response` must be a string, got None"),
    ({"verdicts": [True]}, r"`verdicts` must be a list of one verdict per criterion \(2\), or a mapping by name, got \[True\]"),
    ({"verdicts": {"shrt": True}}, r"`verdicts` must be by the names short, calm, got 'shrt'"),
    ({"verdicts": ["maybe", None]}, r"`verdicts\['short'\]` must be true, false, 'met', .* a grade, or null .* from 0 to 1, got 'maybe'"),
    ({"verdicts": [2, None]}, r"`verdicts\['short'\]` must be .* from 0 to 1, got 2"),
    ({"responses": [3]}, "`responses` must be a list of mappings with `response` and `verdicts`, got \\[3\\]"),
    ({"responses": [{"verdicts": []}]}, r"`responses\[0\]\.response` must be a string, got None"),
    ({"verdicts": [None, None]}, "`verdicts` must be given for at least one criterion, got None"),
])  # fmt: skip
def test_malformed(tmp_path, changes, message):
    with pytest.raises(RubricError, match=message):
        read_gold(write(tmp_path, {**row("a", [True, True]), **changes}))


def test_the_command(tmp_path, capsys):
    path = write(tmp_path, row("one two three", [True, False]), row("one two three four!", [True, True]))
    out = tmp_path / "out.json"
    judge_command([f"--agreement={path}", "--judge=RuleJudge", "--repeats=2", f"--json={out}"])  # which hands it over
    figures = json.loads(out.read_text())
    assert (figures["accuracy"], figures["consistency"], figures["labels"]) == (0.75, 1.0, 4)
    assert figures["judge"]["class_path"].endswith("RuleJudge")
    said = capsys.readouterr().out
    assert "4 verdicts on 2 responses" in said
    assert "Asked 2 times: 1.000 of the pairs of verdicts agree" in said


MAJORITY = "{class_path: MajorityJudge, init_args: {judges: [{class_path: RuleJudge}, {class_path: RuleJudge}]}}"


def test_the_judge_of_a_configuration(tmp_path):
    path, out = write(tmp_path, row("one two three", [True, False])), tmp_path / "out.json"
    (tmp_path / "other.yaml").write_text(f"class_path: FocalReward\ninit_args: {{gamma: 1, judge: {MAJORITY}}}")
    for text, name in (
        (f"judge: {MAJORITY}", "MajorityJudge"),
        (f"trainer: {{callbacks: [{{class_path: StaticReward, init_args: {{judge: {MAJORITY}}}}}]}}", "MajorityJudge"),
        ("reward: other.yaml", "MajorityJudge"),  # a file that it names
        ("reward: {class_path: FocalReward, init_args: {judge: null}}", "RuleJudge"),
    ):
        (tmp_path / "run.yaml").write_text(text)
        agreement_command(["--config", str(tmp_path / "run.yaml"), "--agreement", str(path), f"--json={out}"])
        figures = json.loads(out.read_text())
        assert (figures["accuracy"], figures["judge"]["class_path"].rsplit(".", 1)[1]) == (1.0, name)


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ([], ValueError, "`--judge` must be given, or `--config` with one, but not both"),
    (["--judge=RuleJudge", "--config=x.yaml"], ValueError, "`--judge` must be given, or `--config` with one, but not both"),
    (["--config=x.yaml"], FileNotFoundError, r"`--config` must be an existing file, got 'x\.yaml'"),
    (["--judge=RoutedJudge"], ValueError, "criterion 'kind' has no `check`"),  # before anything is judged
    (["--judge=RoutedJudge", "--repeats=0"], ValueError, "`repeats` must be >= 1, got 0"),
])  # fmt: skip
def test_arguments_that_do_not_go(tmp_path, arguments, error, message):
    path = write(tmp_path, row("a", [True], rubric=[{"name": "kind", "description": "Is kind."}]))
    with pytest.raises(error, match=message):
        agreement_command(["--agreement", str(path), *arguments])


def test_the_meta_evaluation_of_healthbench_is_gold_as_it_is(tmp_path):
    row = {"prompt": [{"role": "user", "content": "My head hurts."}], "prompt_id": "p", "completion": "Rest, please."}
    row |= {"rubric": "Advises rest.", "category": "cluster:hedging"}
    row |= {"binary_labels": [True, False], "anonymized_physician_ids": ["a", "b"]}
    cases = read_gold(write_rows(tmp_path / "meta.jsonl", [{**row, "completion_id": name} for name in "xy"]))
    assert [(case.id, case.met, case.keys) for case in cases] == [
        (f"meta:{line}#{i}", (met,), ("cluster:hedging",)) for line in (1, 2) for i, met in enumerate((1.0, 0.0))
    ]
    assert {case.request.response for case in cases} == {"Rest, please."}
