"""What `lightning_focal rubrics` says of a file."""

from __future__ import annotations

import json

import pytest

from lightning_focal.commands.rubrics import rubrics_command
from lightning_focal.rubrics import read_rows
from tests.conftest import write_rows
from tests.rubrics.test_formats import ROWS

SHORT = {"name": "short", "description": "At most 3 words.", "points": 3, "tags": ["axis:brevity"]}
SHORT["check"] = {"kind": "max_words", "words": 3}
SHOUTS = {"name": "shouts", "description": "Shouts.", "points": -1, "check": {"kind": "contains", "text": "!"}}
KIND = {"name": "kind", "description": "Is kind, from 1 to 5?", "points": 2, "low": 1, "high": 5, "required": True}


def plain(id_="a", *criteria, **more):
    return {"id": id_, "prompt": "Q?", "rubric": list(criteria or [SHORT]), **more}


@pytest.fixture
def run(tmp_path):
    """``run(rows, responses, *arguments)``: exit status and what was written."""

    def go(rows, responses=None, *arguments):
        for name, lines in (("x.jsonl", rows), ("r.jsonl", responses or ())):
            write_rows(tmp_path / name, lines)
        given = [] if responses is None else ["--responses", str(tmp_path / "r.jsonl")]
        status = 0
        try:
            rubrics_command([str(tmp_path / "x.jsonl"), *given, *arguments, f"--json={tmp_path / 'out.json'}"])
        except SystemExit as ended:
            status = ended.code
        return status, json.loads((tmp_path / "out.json").read_text())

    return go


def test_a_good_file(run, capsys):
    status, found = run([plain("a", SHORT, SHOUTS, KIND, answer="4"), plain("b")])
    assert status == 0
    counts = {"format": "plain", "rows": 2, "total_rows": 2, "criteria": 4, "distinct_criteria": 3, "problems": []}
    counts |= {"tags": {"axis:brevity": 2}, "checks": {"max_words": 2, "contains": 1}, "without_check": 1, "graded": 1}
    counts |= {"required": 1, "answers": 1, "points": {"sum": 7.0, "positive": 3, "negative": 1, "zero": 0}}
    assert {name: found[name] for name in counts} == counts
    assert found["criteria_per_row"] == {"min": 1, "mean": 2.0, "max": 3}
    assert found["points_per_row"] == {"min": 3.0, "mean": 4.0, "max": 5.0}
    said = capsys.readouterr().out
    assert "1 of 4: kind" in said
    assert "max_words 2, contains 1" in said


def test_every_problem_is_listed(run, capsys, tmp_path):
    bad = [plain(), plain("b", SHORT, SHORT), plain("c", {**SHORT, "points": "three"})]
    bad += [plain("d", {**SHORT, "check": "max_word"}, {**KIND, "points": 0}), "{"]
    status, found = run([plain(), *bad])
    path, problems = tmp_path / "x.jsonl", found["problems"]
    assert (status, found["rows"], found["total_rows"]) == (1, 2, 6)
    assert [(problem["kind"], problem["where"]) for problem in problems] == [
        *(("row", f"{path}:{line}") for line in (2, 3, 4, 6)),
        ("check", f"{path}:5: rubric[0]"),
        ("points", f"{path}:5: rubric[1]"),
    ]
    messages = [problem["message"] for problem in problems]
    assert messages[0] == f"{path}:2: `id` must be unique in the file (first at {path}:1), got 'a'"
    assert "`criteria[1].name` must be unique within the rubric" in messages[1]
    assert messages[2] == f"{path}:4: `rubric[0].points` must be a finite number, got 'three'"
    assert "`kind` must be a known check, got 'max_word' (did you mean 'max_words'" in messages[4]
    assert "criterion 'kind' has no points" in messages[5]
    assert messages[0] in capsys.readouterr().out


def test_a_rule_that_is_asked_for_and_not_given_is_a_problem(run):
    criterion = {"criterion": "Is right.", "points": 5, "tags": ["verifier:rule"]}
    status, found = run([{"prompt_id": "p", "prompt": [{"role": "user", "content": "Q?"}], "rubrics": [criterion]}])
    assert status == 1
    assert "criterion 'is-right' has no `check`: a rule judge needs one" in found["problems"][0]["message"]


def test_nothing_good_and_few_problems_shown(run, capsys):
    status, found = run([{"prompt": "", "rubric": [SHORT]}] * 5, None, "--show=2")
    assert (status, found["total_rows"], len(found["problems"]), "rows" in found) == (1, 5, 5, False)
    said = capsys.readouterr().out
    assert said.count("`prompt` must be") == 2
    assert "and 3 more problems: --json writes all" in said


def test_every_format_is_shown(run, tmp_path):
    for name, row in ROWS.items():
        status, found = run([row])
        assert (status, found["format"]) == (0, name)
        assert found["without_check"] == sum(c.check is None for c in read_rows(tmp_path / "x.jsonl")[0].rubric.criteria), name


def test_responses_are_scored_by_hand(run, capsys):
    responses = [{"id": "a", "response": "one two!"}, "", {"id": "a", "response": "one two three four"}]
    status, found = run([plain("a", SHORT, SHOUTS, KIND)], responses)
    first, second = found["scores"].pop("responses")
    # judged: short (weight 3/6) and shouts (1/6); met 3 - 1 points of 3
    assert (status, first["score"], first["own_score"]) == (0, pytest.approx(3 / 4), pytest.approx(2 / 3))
    assert first["verdicts"]["shouts"] == {"outcome": "met", "met": 1.0, "score": 0.0, "reason": "'!' occurs"}
    assert first["verdicts"]["kind"] == {"outcome": "not judged", "met": None, "score": None, "reason": ""}
    assert (second["score"], second["own_score"]) == (pytest.approx(1 / 4), 0.0)
    mean = {"score": pytest.approx(1 / 2), "own_score": pytest.approx(1 / 3), "by_tag": {"axis:brevity": 0.5}, "errors": 0}
    assert found["scores"] == mean
    assert "2 responses, judged by rule" in capsys.readouterr().out


def test_a_failed_check_counts_nowhere(run):
    failing = {"name": "slow", "check": {"kind": "regex", "pattern": "(a|aa)+$"}}
    _, found = run([plain("a", failing)], [{"id": "a", "response": "a" * 60 + "b"}])
    assert [found["scores"][name] for name in ("errors", "score", "own_score")] == [1, None, None]


def test_responses_that_belong_to_no_row_are_problems(run, tmp_path):
    lines = [{"id": "z", "response": "a"}, {"prompt_id": "a", "response": "one"}, {"id": "a"}, "{"]
    status, found = run([plain(), plain("bad", {**SHORT, "check": "x"})], [*lines, {"id": "bad", "response": "a"}, "3"])
    assert (status, [entry["id"] for entry in found["scores"]["responses"]]) == (1, ["a"])
    assert [problem["message"] for problem in found["problems"] if problem["kind"] == "response"] == [
        f"{tmp_path / 'r.jsonl'}:{line}"
        for line in (
            "1: `id` must be the id of a good rubric row, got 'z'",
            "3: `response` must be a string, got None",
            "4: the line must be JSON (Expecting property name enclosed in double quotes at column 2), got '{'",
            "5: `id` must be the id of a good rubric row, got 'bad'",
            "6: `response` must be a string, got 3",
        )
    ]


def test_bad_arguments(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(plain()))
    for arguments, error, message in (
        ([str(tmp_path / "none.jsonl")], FileNotFoundError, "`file` must be an existing rubric file"),
        ([str(path), "--responses", "none.jsonl"], FileNotFoundError, "`responses` must be an existing file"),
        ([str(path), "--show=-1"], ValueError, "`show` must be >= 0, got -1"),
        ([str(path), "--format=csv"], ValueError, "`rubric_format` must be one of"),
    ):
        with pytest.raises(error, match=message):
            rubrics_command(arguments)
